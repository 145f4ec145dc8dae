"""Checkpoints of Detectron2 into published folders of ours, and back."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from detcore.config.transforms import ResizeShortestEdge
from detcore.convert.coco_classes import COCO_CLASSES
from detcore.convert.detectron2 import model_config
from detcore.convert.detectron2_guess import guess_settings
from detcore.convert.detectron2_rules import rules
from detcore.convert.detectron2_settings import Settings, is_lazy, read_settings
from detcore.convert.detectron2_yaml import read_yaml
from detcore.convert.names import from_ours, load, to_ours
from detcore.convert.reading import read_checkpoint
from detcore.convert.writing import Converted, expect_new, name_of, with_counters, write_published
from detcore.inference.folder import read_description, read_weights
from detcore.models import build_model

_NO_WEIGHTS = re.compile(
    r"(pixel_(mean|std)|.*anchor_generator\.cell_anchors\.\d+|.*\.(num_batches_tracked|relative_position_index))$"
)
"""Tensors that are no weights: what they say is said by the configuration."""
_STEM = re.compile(r"backbone\.(bottom_up\.)?stem\.conv1(_1)?\.weight$")


def convert_detectron2(
    file: Path, folder: Path, *, settings_file: Path | None = None, labels: Sequence[str] | None = None
) -> Converted:
    """Writes a published model with a Detectron2 checkpoint's weights and architecture.

    Args:
        file: `model_final.pth` or one of the model zoo's `.pkl`.
        folder: a new or empty one.
        settings_file: the model's `config.yaml`; None takes the one beside `file`, else what the tensors tell.
        labels: names of the classes; None takes COCO's where there are 80 (or 1, person, with keypoints), else numbers.

    Raises:
        ValueError: the files cannot be read, or their architecture has no counterpart here, or tensors do not fit,
            naming them.
    """
    expect_new(folder)
    state = read_checkpoint(file)
    notes = []
    beside = file.with_name("config.yaml")
    if settings_file is None and beside.is_file() and not is_lazy(read_yaml(beside)):
        settings_file = beside
    if settings_file is not None:
        settings = read_settings(settings_file)
    else:
        settings = guess_settings(state)
        notes.append("no configuration was given: what tensors do not tell is taken to be as in the published models")
    dropped = [name for name in state if _NO_WEIGHTS.match(name)]
    state = {name: tensor for name, tensor in state.items() if name not in dropped}
    if settings["INPUT"]["FORMAT"] == "RGB":
        state, settings = _as_if_blue_came_first(state, settings)
    try:
        config = model_config({**settings["MODEL"], "TEST": settings["TEST"]}, name=name_of(file))
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, f['loc']))}: {f['msg']} (got {f['input']!r})" for f in error.errors())
        raise ValueError(f"{settings_file or file}: no {error.title} can be made of it: {'; '.join(faults)}") from None
    if any(settings["MODEL"][head]["NORM"] in ("BN", "SyncBN") for head in ("ROI_BOX_HEAD", "ROI_MASK_HEAD")):
        notes.append("batch norms of heads that see regions keep their statistics and weights in training here")
    num_classes = config.num_classes
    assert num_classes is not None
    names = _labels(labels, num_classes, keypoints=bool(settings["MODEL"]["KEYPOINT_ON"]), notes=notes)
    model = build_model(config, num_classes=num_classes, load_weights=False)
    ours, unknown = to_ours(state, rules(config))
    if unknown:
        raise ValueError(f"{file}: {len(unknown)} tensors have no counterpart here: {', '.join(unknown[:8])}")
    load(model, with_counters(ours, model), source=str(file))
    sizes = settings["INPUT"]
    resize = ResizeShortestEdge(sizes=(sizes["MIN_SIZE_TEST"],), max_size=sizes["MAX_SIZE_TEST"])
    write_published(folder, model, config=config, labels=names, resize=resize)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Converted(folder=folder, config=config, num_tensors=len(ours), num_parameters=parameters, notes=tuple(notes))


def convert_to_detectron2(folder: Path, file: Path) -> int:
    """Writes a published model's weights as a checkpoint that Detectron2 loads into the model it was converted from.

    Returns:
        The number of tensors.

    Raises:
        ValueError: the folder is no published model, or its architecture has no counterpart there.
    """
    description = read_description(folder)
    if file.suffix != ".pth":
        raise ValueError(f"{file}: Detectron2 wants a file name that ends in .pth")
    weights = read_weights(folder, description)
    weights = {name: tensor for name, tensor in weights.items() if not _NO_WEIGHTS.match(name)}
    theirs, unknown = from_ours(weights, rules(description.model))
    if unknown:
        raise ValueError(f"{folder}: {len(unknown)} tensors have no counterpart there: {', '.join(unknown[:8])}")
    temporary = file.with_name(f".{file.name}.part")
    torch.save({"model": theirs, "__author__": "detcore"}, temporary)
    temporary.replace(file)
    return len(theirs)


def _as_if_blue_came_first(state: dict[str, Tensor], settings: Settings) -> tuple[dict[str, Tensor], Settings]:
    """A model that reads red first as the one that reads blue first and sees the same."""
    turned = {name: tensor.flip(1) if _STEM.match(name) else tensor for name, tensor in state.items()}
    model = settings["MODEL"]
    statistics = {key: list(reversed(model[key])) for key in ("PIXEL_MEAN", "PIXEL_STD")}
    return turned, {**settings, "MODEL": {**model, **statistics}}


def _labels(stated: Sequence[str] | None, num_classes: int, *, keypoints: bool, notes: list[str]) -> tuple[str, ...]:
    if stated is not None:
        if len(stated) != num_classes:
            raise ValueError(f"{len(stated)} labels for a model of {num_classes} classes")
        return tuple(stated)
    if num_classes == len(COCO_CLASSES) or (keypoints and num_classes == 1):
        notes.append("the classes are taken to be COCO's, in its order; --labels FILE names others")
        return COCO_CLASSES[:num_classes]
    notes.append("the classes have numbers for names; --labels FILE names them, one a line")
    return tuple(str(index) for index in range(num_classes))
