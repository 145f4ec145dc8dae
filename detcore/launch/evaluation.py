"""The figures of a published model: on test, once, after all decisions are made; or on any data."""

import csv
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from detcore.config import Config
from detcore.data import ShardedSplit, build_loader
from detcore.data.description import find_description as find_dataset
from detcore.data.description import read_description as read_dataset
from detcore.engine import Precision, evaluate, evaluator_of, ground_truth, predictions
from detcore.engine.atomic import write_file
from detcore.engine.publish import class_names
from detcore.evaluation import Evaluation, Evaluator, PRCurve, save_pr_curve
from detcore.evaluation.detections_file import save_detections
from detcore.evaluation.truth_file import save_truth
from detcore.inference import Predictor, PublishedModel, load_folder, read_description
from detcore.inference.views import AugmentedPreprocessing, augmented_batches
from detcore.launch.delivery import send
from detcore.launch.training import ensure_shards
from detcore.structures.batch import Batch
from detcore.tracking.pictures import Pictures

FOLDER = "evaluation"
MODEL_SHA256 = "model.sha256"
"""The file in it that says which weights were measured."""
ABOUT = "about.json"
"""The file in it that says of which data the figures are, and how they were measured."""
DETECTIONS, TRUTH = "detections.parquet", "truth.json.gz"
PIXEL_CONFUSION = "pixel_confusion.json"
"""Pixels by true and by predicted class of the semantic maps: a list of rows."""
PNG_SIGNATURE = b"\x89PNG"


def evaluate_published(config: Config, *, model: nn.Module | None = None) -> dict[str, float]:
    """Measures `<run_dir>/model` on the test split, in this process.

    Writes `<run_dir>/evaluation/`: `metrics.json`, `per_class.csv` and `.json` (with the best F1 of each class and its
    score threshold), `pr_curve.csv` of the first kind of object that is compared (boxes
    where there are any; then `mask_pr_curve.csv` and so on) with a picture of each, `pictures/` of predictions beside
    the truth, `example.jpg`, an image to try the model on, and `about.json`; where objects are detected also
    `detections.parquet` and their `truth.json.gz`, of which the report is made and by which the model can be compared
    with others; of semantic maps `pixel_confusion.json`. Logs the same to the run that trained the model. Where the
    data has no test split it says so, and the files are empty.

    Args:
        model: your own module, where the published model is one; its weights are loaded into it.

    Returns:
        The test metrics in percent; {} without a test split.

    Raises:
        ValueError: if there is no published model, or it was trained on other data or another split of it.
    """
    model_dir, folder, data = Path(config.run_dir, "model"), Path(config.run_dir, FOLDER), config.data
    published = read_description(model_dir)
    _ensure_its_shards(config, published)
    if "test" not in read_dataset(data.shards, store=data.store)["splits"]:
        print(f"{data.name} has no test split: there are no test figures", flush=True)
        _write_none(folder, published)
        return {}
    with closing(ShardedSplit.open(data.shards, "test", store=data.store)) as split:
        evaluation = evaluate_on(config, split, load_folder(model_dir, device=config.engine.device, model=model))
        _write(evaluation, folder, published)
        if evaluation.results is not None:
            save_detections(evaluation.results, folder / DETECTIONS)
            save_truth(ground_truth(split), folder / TRUTH)
        _describe(config, folder)
        _draw(evaluation, split, folder, count=config.tracking.num_pictures)
    if config.tracking.enabled:
        step = json.loads(Path(config.run_dir, "train.json").read_text())["best_step"]
        values = {f"test/{name}": value for name, value in evaluation.metrics.items()}
        send(config, folder, artifact="test", metrics=values, step=step)
    return evaluation.metrics


def evaluate_model(model_dir: Path, config: Config, *, split: str | None = None) -> tuple[str, Evaluation]:
    """Measures a published model on a split of any data that has its classes, in this process.

    Args:
        model_dir: the published folder.
        config: says which data, and how to measure; the data is prepared where it was not. Nothing is written besides.
        split: 'train', 'val' or 'test'; None takes test, or val where there is no test.

    Returns:
        The split, and what was found.

    Raises:
        ValueError: if the data has no such split, or other classes than the model.
    """
    read_description(model_dir)  # before any data is prepared
    data = config.data
    ensure_shards(config)
    there = read_dataset(data.shards, store=data.store)["splits"]
    split = split or ("test" if "test" in there else "val")
    predictor = load_folder(model_dir, device=config.engine.device)
    return split, evaluate_predictor(predictor, config, split=split)


def evaluate_predictor(predictor: Predictor, config: Config, *, split: str) -> Evaluation:
    """Measures anything that predicts on a split of prepared data; the rest as `evaluate_model`."""
    data = config.data
    there = read_dataset(data.shards, store=data.store)["splits"]
    if split not in there:
        raise ValueError(f"{data.name} has no split {split}; it has {', '.join(there)}")
    with closing(ShardedSplit.open(data.shards, split, store=data.store)) as opened:
        expected = list(class_names(predictor.model, opened))
        if list(predictor.labels) != expected:
            raise ValueError(
                f"the model knows the classes {_some(predictor.labels)}, the data {data.name} has {_some(expected)}: "
                "they must be the same, in the same order"
            )
        return evaluate_on(config, opened, predictor)


def _some(names: Sequence[str]) -> str:
    more = f" … ({len(names)} of them)" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def evaluate_on(config: Config, split: ShardedSplit, predictor: Predictor) -> Evaluation:
    """A model's evaluation on a split, by the settings of `engine`; maps are kept of the images that are drawn."""
    precision = Precision(name=config.engine.precision, device=predictor.device)
    if config.engine.tta is not None:
        predictor = predictor.augmented(config.engine.tta)
    with _batches(config, split, predictor, precision) as loader:
        scores = evaluate(
            predictor.model.to(precision.dtype),
            loader,
            evaluator=_evaluator(config, split, predictor.model),
            precision=precision,
        )
    assert scores is not None and scores.evaluation is not None, "not interrupted, and of this process"
    return scores.evaluation


def _evaluator(config: Config, split: ShardedSplit, model: nn.Module) -> Evaluator:
    """Of all that the model predicts and the split has; it is said what that leaves out."""
    truth, pictured = ground_truth(split), split.spread(config.tracking.num_pictures)
    evaluator = evaluator_of(model, truth, config.engine.evaluation, keep_maps_of=pictured, operating_points=True)
    for kind in predictions(model):
        if kind not in evaluator.kinds:
            print(f"no figures of {kind} on {split.split}: {truth.lacks(kind)}", flush=True)
    return evaluator


def _batches(
    config: Config, split: ShardedSplit, predictor: Predictor, precision: Precision
) -> AbstractContextManager[Iterable[Batch]]:
    """The split as the predictor sees images."""
    preprocessing, batch_size = predictor.preprocessing, config.engine.eval_batch_size
    if isinstance(preprocessing, AugmentedPreprocessing):
        return nullcontext(
            augmented_batches(
                split, preprocessing, batch_size=batch_size, device=predictor.device, dtype=precision.dtype
            )
        )
    return build_loader(
        split,
        config.data.model_copy(update={"test_transforms": (preprocessing.transform,)}),
        train=False,
        batch_size=batch_size,
        seed=config.seed,
        image_mean=preprocessing.image_mean,
        image_std=preprocessing.image_std,
        device=predictor.device,
        dtype=precision.dtype,
        size_divisor=preprocessing.size_divisor,
    )


def _ensure_its_shards(config: Config, published: PublishedModel) -> None:
    """Makes sure that the shards are those of the training: in other splits, test may hold training images."""
    data, trained_on = config.data, published.data.content_hash
    there = find_dataset(data.shards, store=data.store)
    if there is not None and there["content_hash"] == trained_on:
        return  # whatever the settings are now
    ensure_shards(config)
    found = read_dataset(data.shards, store=data.store)["content_hash"]
    if found != trained_on:
        raise ValueError(
            f"{config.run_dir}/model was trained on other data ({trained_on[:12]}) than there is in {data.shards} "
            f"({found[:12]}); evaluate with the same data.* and seed as in training"
        )


def _begin(folder: Path, published: PublishedModel, metrics: Mapping[str, float]) -> None:
    """An empty folder, then figures, of which weights they are, and the curve that the pipeline asks for, empty."""
    shutil.rmtree(folder, ignore_errors=True)  # it may be of other weights
    folder.mkdir(parents=True)
    write_file(folder / "metrics.json", (json.dumps(dict(metrics), indent=2) + "\n").encode())
    write_file(folder / MODEL_SHA256, f"{published.weights_sha256}\n".encode())
    write_file(folder / "pr_curve.csv", b"recall,mean\n")


def _write_none(folder: Path, published: PublishedModel) -> None:
    """What the pipeline goes on with where there was nothing to measure."""
    _begin(folder, published, {})


def _write(evaluation: Evaluation, folder: Path, published: PublishedModel) -> None:
    _begin(folder, published, evaluation.metrics)
    write_tables(evaluation, folder)


def write_tables(evaluation: Evaluation, folder: Path) -> None:
    """`per_class.csv` and `.json`, and a `pr_curve.csv` with its picture of each kind, in a folder that is there."""
    rows = [{"class": name, **values} for name, values in evaluation.per_class.items()]
    _write_csv(folder / "per_class.csv", rows)
    write_file(folder / "per_class.json", (json.dumps(evaluation.per_class, indent=2) + "\n").encode())
    if evaluation.confusion is not None:
        write_file(folder / PIXEL_CONFUSION, (json.dumps(evaluation.confusion.tolist()) + "\n").encode())
    for index, (prefix, curve) in enumerate(evaluation.curves.items()):
        name = f"{prefix}_pr_curve" if index else "pr_curve"
        _write_csv(folder / f"{name}.csv", _wide(curve))
        save_pr_curve(curve, folder / f"{name}.png")


def _describe(config: Config, folder: Path) -> None:
    """What the report has to know besides."""
    about = {
        "data": config.data.name,
        "shards": config.data.shards,
        "split": "test",
        "settings": config.engine.evaluation.model_dump(mode="json"),
    }
    write_file(folder / ABOUT, (json.dumps(about, indent=2) + "\n").encode())


def _wide(curve: PRCurve) -> list[Mapping[str, Any]]:
    """A row a recall, a column a class: what `dvc plots` takes."""
    columns = {"recall": curve.recall, "mean": curve.mean, **curve.by_class}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_file(path, text.getvalue().encode())


def _draw(evaluation: Evaluation, split: ShardedSplit, folder: Path, *, count: int) -> None:
    (folder / "pictures").mkdir(exist_ok=True)
    for index, picture in enumerate(Pictures(split, count=count).draw(evaluation)):
        picture.save(folder / "pictures" / f"{index:02d}.png")
    image = split.read(0)
    (folder / f"example{'.png' if image.startswith(PNG_SIGNATURE) else '.jpg'}").write_bytes(image)
