"""The files that a version keeps beside its weights: how it was trained, on what, and what it found in the test split.

card/  card.html  card.md  config.yaml  data.json
       evaluation/  metrics.json  per_class.json  detections.parquet  truth.json.gz  pr_curve.csv  pictures/ …
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from detcore.config import Config
from detcore.data.description import find_description
from detcore.data.statistics import describe
from detcore.inference import PublishedModel, read_description
from detcore.inference.folder import WEIGHTS

CONFIG, DATA, EVALUATION = "config.yaml", "data.json", "evaluation"
_TABLES = ("metrics.json", "per_class.json", "detections.parquet", "truth.json.gz")
FILES = (CONFIG, DATA, *(f"{EVALUATION}/{name}" for name in _TABLES))
"""What two versions are compared by."""


@dataclass(frozen=True, kw_only=True)
class Dossier:
    """What is known of a model, read from its files; {} and None for what it does not have.

    Attributes:
        title: name/version, or the run's folder.
        published: what `model.json` says.
        shapes: of each tensor, by name.
        model_dir: the published folder.
        config: the settings it was trained with, nested.
        data: statistics of its data by split; see `detcore.data.statistics`.
        test: metrics in percent.
        per_class: class name -> metrics on test.
        evaluation: the folder with detections, truth, curves and pictures.
    """

    title: str
    published: PublishedModel
    shapes: Mapping[str, tuple[int, ...]]
    model_dir: Path
    config: Mapping[str, Any]
    data: Mapping[str, Any]
    test: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    evaluation: Path | None

    @property
    def num_parameters(self) -> int:
        """Numbers in the weights' file, running statistics among them."""
        return sum(_product(shape) for shape in self.shapes.values())

    def split(self, name: str) -> Mapping[str, Any]:
        """The statistics of a split of its data."""
        found: Mapping[str, Any] = self.data.get("splits", {}).get(name, {})
        return found


def collect(config: Config, folder: Path) -> None:
    """Brings together what is known of the run in `config.run_dir`: all of a dossier but the card.

    Args:
        config: what the run was trained with.
        folder: an empty one.
    """
    (folder / CONFIG).write_text(yaml.safe_dump(config.shareable(), sort_keys=False, allow_unicode=True))
    dataset = find_description(config.data.shards, store=config.data.store)
    published = read_description(Path(config.run_dir, "model"))
    # Other data may lie there by now, or none: then nothing is said rather than something wrong.
    if dataset is not None and dataset["content_hash"] == published.data.content_hash:
        # A root that is nowhere: the shards are taken as they are, by whatever settings they were made.
        data = config.data.model_copy(update={"root": f"{config.data.shards}/raw"})
        statistics, _ = describe(config.model_copy(update={"data": data}))
        (folder / DATA).write_text(json.dumps(statistics.to_dict()))
    evaluation = Path(config.run_dir, EVALUATION)
    if evaluation.is_dir():
        shutil.copytree(evaluation, folder / EVALUATION)


def read_dossier(title: str, model_dir: Path, folder: Path) -> Dossier:
    """The dossier of a model, from its published folder and the one that `collect` filled.

    Raises:
        ValueError: if a file is not what it should be; absent ones are passed over.
    """
    evaluation = folder / EVALUATION
    return Dossier(
        title=title,
        published=read_description(model_dir),
        shapes=_shapes(model_dir / WEIGHTS),
        model_dir=model_dir,
        config=_mapping(folder / CONFIG),
        data=_mapping(folder / DATA),
        test=_mapping(evaluation / "metrics.json"),
        per_class=_mapping(evaluation / "per_class.json"),
        evaluation=evaluation if evaluation.is_dir() else None,
    )


def _mapping(path: Path) -> Mapping[str, Any]:
    """What a JSON or YAML file holds; {} where there is none."""
    if not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: names and values are expected, it holds a {type(values).__name__}")
    return values


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: {error}") from error


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
