"""Reports of trained models: from what their evaluation left, or by looking at a split anew."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from detcore.config import Config, EvaluationConfig
from detcore.data import ShardedSplit
from detcore.data.description import read_description as read_dataset
from detcore.data.images import read_image
from detcore.data.locate import locate
from detcore.engine import ground_truth
from detcore.evaluation import Evaluation
from detcore.evaluation.detections_file import load_detections
from detcore.inference import Predictor, load_folder, read_description
from detcore.launch.delivery import send
from detcore.launch.evaluation import (
    ABOUT,
    DETECTIONS,
    FOLDER,
    MODEL_SHA256,
    PIXEL_CONFUSION,
    evaluate_on,
)
from detcore.launch.training import ensure_shards
from detcore.report import Findings, Measured, find, write_empty, write_report
from detcore.report.measured import PREFIXES, ReadImage
from detcore.tracking import resolve
from detcore.tracking.client import tracking_uri
from detcore.tracking.pictures import Pictures

REPORT = "report"
"""Its folder in that of the run."""
_NUM_PICTURES = 8
_MAPS = ("miou", "pq")
"""Metrics of models whose maps are shown."""


def report_published(config: Config) -> Findings | None:
    """Writes `<run_dir>/report/` of the test split's evaluation, compared with the champion where there is one.

    Sends it to the run that trained the model.

    Returns:
        What it says; None without a test split, and then the page says so.

    Raises:
        ValueError: if there is no evaluation of these weights.
    """
    folder = Path(config.run_dir, REPORT)
    if not Path(config.run_dir, FOLDER, ABOUT).is_file():
        _expect_evaluated(Path(config.run_dir))
        write_empty(
            folder, title=config.name, about=f"{config.data.name} has no test split: there is nothing to report"
        )
        return None
    measured = measured_run(Path(config.run_dir))
    against, notes = _champion(config)
    findings = find(measured, against=against, notes=notes)
    write_report(findings, folder)
    if config.tracking.enabled:
        send(config, folder, artifact=REPORT)
    return findings


def measured_run(run_dir: Path) -> Measured:
    """The evaluation in a run's folder.

    Raises:
        ValueError: there is none, or it is of other weights than the run's model has now.
    """
    folder = run_dir / FOLDER
    if not (folder / ABOUT).is_file():
        raise ValueError(f"{folder} holds no evaluation; evaluate the model first: detcore evaluate {run_dir}")
    _expect_evaluated(run_dir)
    about = json.loads((folder / ABOUT).read_text())
    split = ShardedSplit.open(about["shards"], about["split"])
    truth = ground_truth(split)
    metrics = json.loads((folder / "metrics.json").read_text())
    results = None
    if (folder / DETECTIONS).is_file():
        sizes = {image["id"]: (image["height"], image["width"]) for image in truth.coco["images"]}
        results = load_detections(folder / DETECTIONS, sizes)
    confusion = folder / PIXEL_CONFUSION
    pictures = sorted((folder / "pictures").glob("*.png")) if any(name in metrics for name in _MAPS) else []
    return Measured(
        title=run_dir.name,
        about=f"{about['data']}: {about['split']}, {len(split):,} images",
        truth=truth,
        results=results,
        kinds=tuple(kind for kind, prefix in PREFIXES.items() if f"{prefix}_ap50" in metrics),
        metrics=metrics,
        per_class=json.loads((folder / "per_class.json").read_text()),
        read_image=_reader(split),
        settings=EvaluationConfig.model_validate(about["settings"]),
        confusion=None if not confusion.is_file() else np.array(json.loads(confusion.read_text()), dtype=np.int64),
        pictures=[Image.open(path).convert("RGB") for path in pictures],
    )


def measured_model(name: str, predictor: Predictor, words: Sequence[str], *, split: str | None = None) -> Measured:
    """A model looked at on data that `words` name, as `detcore data` takes them; raw data are prepared first.

    Args:
        name: the model's, for the title.
        predictor: the model.
        words: a folder, raw or of shards, `data=NAME`, or other overrides.
        split: None takes test, or else val.

    Raises:
        ValueError: there is no such data or split, or it has other classes than the model.
    """
    config = locate(words)
    ensure_shards(config)
    there = read_dataset(config.data.shards, store=config.data.store)["splits"]
    chosen = split or next(name for name in ("test", "val", "train") if name in there)
    return measured_on(name, predictor, config, ShardedSplit.open(config.data.shards, chosen, store=config.data.store))


def measured_on(name: str, predictor: Predictor, config: Config, split: ShardedSplit) -> Measured:
    """A model looked at on a split. Raises ValueError if that has other classes."""
    if split.categories and tuple(predictor.labels) != split.categories:
        own, others = (f"{len(labels)} ({', '.join(labels[:5])} …)" for labels in (predictor.labels, split.categories))
        raise ValueError(f"{name} has the classes {own}, {split.name} has {others}: they cannot be compared")
    evaluation = evaluate_on(config, split, predictor)
    metrics = evaluation.metrics
    return Measured(
        title=name,
        about=f"{split.name}: {split.split}, {len(split):,} images",
        truth=ground_truth(split),
        results=evaluation.results,
        kinds=tuple(kind for kind, prefix in PREFIXES.items() if f"{prefix}_ap50" in metrics),
        metrics=metrics,
        per_class=evaluation.per_class,
        read_image=_reader(split),
        settings=config.engine.evaluation,
        confusion=evaluation.confusion,
        pictures=_maps(evaluation, split, count=config.tracking.num_pictures),
    )


def _maps(evaluation: Evaluation, split: ShardedSplit, *, count: int) -> list[Image.Image]:
    return Pictures(split, count=count).draw(evaluation) if evaluation.maps else []


def _reader(split: ShardedSplit) -> ReadImage:
    return lambda place: read_image(split.read(place))[0]


def _expect_evaluated(run_dir: Path) -> None:
    measured = run_dir / FOLDER / MODEL_SHA256
    published = read_description(run_dir / "model")
    if not measured.is_file() or measured.read_text().strip() != published.weights_sha256:
        raise ValueError(
            f"{run_dir / FOLDER} has no figures of the weights in {run_dir / 'model'}; evaluate this model first: "
            f"detcore evaluate {run_dir}"
        )


def _champion(config: Config) -> tuple[Measured | None, list[str]]:
    """The registered champion on the same images; or why it is not compared with."""
    if not config.tracking.enabled:
        return None, []
    name = f"{config.tracking.registered_name}@{config.tracking.champion_alias}"
    try:
        folder = resolve(name, uri=tracking_uri(config.tracking))
    except ValueError:
        return None, [f"There is no champion yet ({name}): nothing to compare with."]
    except OSError as error:
        return None, [f"Not compared with the champion ({name}): {error}"]
    if read_description(folder).weights_sha256 == read_description(Path(config.run_dir, "model")).weights_sha256:
        return None, [f"These weights are the champion ({name}): there is nothing to compare them with."]
    about = json.loads(Path(config.run_dir, FOLDER, ABOUT).read_text())
    split = ShardedSplit.open(about["shards"], about["split"], store=config.data.store)
    try:
        return measured_on(name, load_folder(folder, device=config.engine.device), config, split), []
    except ValueError as error:
        return None, [f"Not compared with the champion: {error}"]
