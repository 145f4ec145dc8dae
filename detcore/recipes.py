"""What each recipe of conf/model costs and what it reached: the rows behind `detcore models`."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detcore.spelling import meant

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from torch import nn

    from detcore.structures.batch import Batch

NUM_CLASSES = 80
"""COCO's, for recipes that do not state their own."""
COUNTED = (
    "GFLOPs are of detecting in one image of {height} × {width} pixels, a multiply-add as 2 (papers often count 1): "
    "matrix products, convolutions (deformable ones too) and attention, the heads' at as many regions as the recipe "
    "lets through. RoIAlign, suppression and pointwise steps are left out."
)

_LARGE = 10_000


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One file of conf/model.

    Attributes:
        name: the file's, as in `model=NAME`.
        type: of the detector.
        what: the file's first line.
        parameters, trained: numbers, the latter of those that are not frozen.
        num_classes: that they are counted with.
        gflops: of detecting in one image; see `COUNTED`. With the two numbers of parameters None where no
            recipe builds the model: a user's own, and one that is published.
        metric, metric_from: what the file's header says that was reached, and how.
    """

    name: str
    type: str
    what: str
    parameters: int | None
    trained: int | None
    num_classes: int
    gflops: float | None
    metric: str | None
    metric_from: str | None


def files(names: Sequence[str] = ()) -> list[Path]:
    """The recipes called so, or all.

    Raises:
        ValueError: for a name that no recipe has.
    """
    from detcore.config import config_directory

    known = {path.stem: path for path in sorted((config_directory() / "model").glob("*.yaml"))}
    known.pop("published", None)  # its architecture is another's
    unknown = [name for name in names if name not in known]
    if unknown:
        near = meant(unknown[0], known) or f"; detcore models lists all {len(known)}"
        raise ValueError(f"no recipe {unknown[0]!r} in {config_directory() / 'model'}{near}")
    return [known[name] for name in names or known]


def parsed_size(text: str) -> tuple[int, int]:
    """'800x1216' -> (800, 1216). Raises ValueError for anything else."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"--size {text}: give HEIGHTxWIDTH in pixels, as 800x1216")
    return int(height), int(width)


def read(path: Path, *, size: tuple[int, int]) -> Recipe:
    """Builds the recipe's model without memory, and runs it without computing.

    Args:
        size: height and width of the image, rounded up to what the model divides images by.

    Raises:
        ValueError: naming the recipe, if it is not valid.
    """
    from pydantic import TypeAdapter

    from detcore.config import ModelConfig, compose_params
    from detcore.config.model import OwnModel, Published
    from detcore.models import build_model

    adapter: TypeAdapter[ModelConfig] = TypeAdapter(ModelConfig)
    config = adapter.validate_python(compose_params([f"model={path.stem}"])["model"])
    header = _header(path)
    metric, metric_from = _metric(header)
    recipe = Recipe(
        name=path.stem,
        type=config.type,
        what=header[0] if header else "",
        parameters=None,
        trained=None,
        num_classes=config.num_classes or NUM_CLASSES,
        gflops=None,
        metric=metric,
        metric_from=metric_from,
    )
    if isinstance(config, OwnModel | Published):
        return recipe
    with _without_memory():
        model = build_model(config, num_classes=recipe.num_classes, load_weights=False).eval()
    model.to("meta")  # shapes without arithmetic
    return replace(
        recipe,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        trained=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        gflops=_flops(model, size) / 1e9,
    )


def table(recipes: Sequence[Recipe], *, size: tuple[int, int]) -> "Group":
    """For a terminal, with what is counted below."""
    from rich.console import Group
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("recipe", no_wrap=True)
    shown.add_column("detector", no_wrap=True)
    shown.add_column("parameters", justify="right", no_wrap=True)
    shown.add_column("GFLOPs", justify="right", no_wrap=True)
    for recipe in recipes:
        shown.add_row(
            recipe.name,
            recipe.type,
            "" if recipe.parameters is None else f"{recipe.parameters / 1e6:.1f} M",
            "" if recipe.gflops is None else f"{recipe.gflops:.0f}",
        )
    height, width = size
    notes = (
        f"\nParameters and GFLOPs are with {NUM_CLASSES} classes unless the recipe states its own.",
        COUNTED.format(height=height, width=width),
        *_reached(recipes),
        "Each recipe's header says more. To train: detcore train model=NAME",
    )
    return Group(shown, *notes)


def _reached(recipes: Sequence[Recipe]) -> "Iterator[RenderableType]":
    """A line for each recipe with a metric, below the table: in a column of a narrow terminal it would be a tower."""
    from rich.padding import Padding

    known = [recipe for recipe in recipes if recipe.metric is not None]
    if known:
        yield "Reached:"
    for recipe in known:
        yield Padding(f"{recipe.name}: {recipe.metric} ({recipe.metric_from or 'its header'})", (0, 0, 0, 2))


def _header(path: Path) -> list[str]:
    """The comments before the first line that is none."""

    def lines() -> Iterator[str]:
        for line in path.read_text().splitlines():
            if not line.startswith("#"):
                return
            yield line.lstrip("# ")

    return list(lines())


def _metric(header: list[str]) -> tuple[str | None, str | None]:
    """'HOW: box AP 61.6, mask AP 51.5.' gives the figures and how."""
    for sentence in re.split(r"\.\s+|\.$", " ".join(header)):
        if re.search(r"\bAP\d* \d", sentence):
            how, colon, figures = sentence.rpartition(": ")
            return figures.strip(), how.strip() if colon else None
    return None, None


@contextmanager
def _without_memory() -> Iterator[None]:
    """Inside, large weights have shapes alone.

    Not all tensors: what constructors compute with and copy, such as a RegNet's widths, needs its values.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Unfilled(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is torch.empty:
                shape_alone = func(*args, **{**kwargs, "device": "meta"})
                if shape_alone.numel() > _LARGE:
                    return shape_alone
            return func(*args, **kwargs)

    with Unfilled():  # type: ignore[no-untyped-call]
        yield


def _flops(model: "nn.Module", size: tuple[int, int]) -> int:
    import torch

    from detcore.bench.flops import flops_of

    with torch.no_grad(), torch.device("meta"):
        batch = _batch(size, getattr(model, "size_divisor", 32))
        return flops_of(lambda: model.detect(batch))  # type: ignore[operator]


def _batch(size: tuple[int, int], divisor: int) -> "Batch":
    import torch

    from detcore.structures.batch import Batch

    height, width = (-(-side // divisor) * divisor for side in size)
    images = torch.zeros(1, 3, height, width).contiguous(memory_format=torch.channels_last)
    sizes = torch.zeros(1, 2, dtype=torch.int64)
    one = torch.zeros(1, dtype=torch.int64)
    real = torch.ones(1, dtype=torch.bool)
    return Batch(images, sizes, one, real, sizes, torch.zeros(1, 3, 3), torch.zeros(2, dtype=torch.int64))
