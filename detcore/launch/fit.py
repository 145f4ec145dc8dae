"""`detcore.fit`: a training from Python, with a model, data and augmentation of your own."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from detcore.config import Config, DataConfig, OwnModel, load
from detcore.config.stores import is_url
from detcore.config.words import as_word
from detcore.data import SampleTransform
from detcore.data.description import read_description
from detcore.engine import FitResult
from detcore.launch.training import train


def fit(
    model: nn.Module | None = None,
    data: str | Path | DataConfig | None = None,
    config: Config | Sequence[str] = (),
    transform: SampleTransform | None = None,
) -> FitResult:
    """Trains a detector: prepared data, Ray or this process, tracking, checkpoints and the published model included.

    Args:
        model: any module with `losses(batch) -> dict of scalars` and `detect(batch) -> Detections`; None builds the one
            that `config` names.
        data: the name of a recipe in conf/data ('digits'), a folder or URL of shards (as `write_split` makes), or a
            whole section; None takes what `config` says.
        config: overrides of conf/, as on the command line (`["engine.steps=1000", "cluster=local"]`), or a whole
            configuration.
        transform: your own augmentation, `transform(sample, rng) -> Sample`: called on every training `Sample`, from
            several threads, before all others.

    Returns:
        The outcome; `model_dir` in it is a folder that `detcore.load` reads.

    Raises:
        ValueError: for what configuration, data or model have wrong; one line.
    """
    if not isinstance(config, Config):
        config = _compose(list(config), model=model, data=data)
    elif isinstance(data, (str, Path)):
        raise ValueError(f"data={data!r} goes with a list of overrides; a whole configuration has its own data section")
    update: dict[str, object] = {}
    if isinstance(data, DataConfig):
        update["data"] = data
    if model is not None:
        update["model"] = OwnModel(name=_name(model), num_classes=getattr(model, "num_classes", None))
    if update:
        config = Config.model_validate({**config.model_dump(), **update})
    return train(config, model=model, transform=transform)


def _compose(overrides: list[str], *, model: nn.Module | None, data: str | Path | DataConfig | None) -> Config:
    # First, so that what the caller states wins; names and folders of the run follow from these by interpolation.
    derived: list[str] = []
    if isinstance(data, DataConfig):
        derived.append(f"data.name={as_word(data.name)}")
    elif data is not None and (is_url(data) or (Path(data) / "dataset.json").is_file()):
        place = str(data).rstrip("/") if is_url(data) else str(Path(data).absolute())
        name = read_description(place)["name"]
        derived += ["data=coco", f"data.name={as_word(name)}"]
        # There is no raw data to prepare them from again: they are taken as they are.
        derived += [f"data.shards={as_word(place)}", f"data.root={as_word(f'{place}/raw')}"]
    elif data is not None:
        if "/" in str(data):
            raise ValueError(f"{data}: no prepared data (dataset.json is missing); see detcore.data.write_split")
        derived.append(f"data={data}")
    if model is not None:
        derived.append(f"model.name={_name(model)}")
    return load([*derived, *overrides])


def _name(model: nn.Module) -> str:
    return type(model).__name__.lower()
