"""Two models beside each other: figures and how sure their difference is, settings, data, weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from detcore.evaluation import GroundTruth, Results
from detcore.evaluation.bootstrap import Interval, Samples, interval, mean, resampled
from detcore.evaluation.detections_file import load_detections
from detcore.evaluation.diagnosis import Diagnosis, Kind
from detcore.evaluation.truth_file import load_truth
from detcore.inference.folder import WEIGHTS
from detcore.zoo.dossier import Dossier

KINDS: dict[str, Kind] = {"box": "boxes", "mask": "masks", "keypoint": "keypoints", "rotated": "rotated"}
"""What the names of metrics begin with, and the kind of prediction of which detections are kept."""
_COMPARED = ("ap", "ap50", "ap75")
_TRUTH, _DETECTIONS = "truth.json.gz", "detections.parquet"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One figure, in percent.

    Attributes:
        name: of the metric, or of a class.
        first, second: of the two models; None where one has none.
        low, high: the 95 % interval of second - first; None where the detections are not there to tell.
    """

    name: str
    first: float | None
    second: float | None
    low: float | None = None
    high: float | None = None

    @property
    def delta(self) -> float | None:
        return None if self.first is None or self.second is None else self.second - self.first

    @property
    def verdict(self) -> str:
        """better, worse, the same, or that these images do not show which; '' where there is no interval."""
        if self.low is None or self.high is None:
            return ""
        if self.low == self.high == 0:
            return "the same"
        return "better" if self.low > 0 else "worse" if self.high < 0 else "not sure"

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "delta": self.delta, "verdict": self.verdict}


Pair = tuple[Any, Any]


@dataclass(frozen=True, kw_only=True)
class Diff:
    """How `second` differs from `first`.

    Attributes:
        first, second: their titles.
        test, val: figures that either has.
        classes: average precision by class on test of the first kind of prediction.
        note: what the figures are worth: on how many images, or why there are no intervals.
        config, data, model: dotted name -> both values, where they differ.
    """

    first: str
    second: str
    test: tuple[Change, ...]
    val: tuple[Change, ...]
    classes: tuple[Change, ...]
    note: str
    config: dict[str, Pair]
    data: dict[str, Pair]
    model: dict[str, Pair]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as `--json` prints them."""
        changes = {"test": self.test, "val": self.val, "classes": self.classes}
        return {**asdict(self), **{name: [change.to_dict() for change in own] for name, own in changes.items()}}


def diff(first: Dossier, second: Dossier, *, sets: int = 1000) -> Diff:
    """Compares two models.

    Where both kept their detections of the same test split, each average precision has a 95 % interval by the paired
    bootstrap over images: the same images are drawn for both, so that their difficulty cancels.

    Args:
        sets: draws of the bootstrap.

    Raises:
        ValueError: if a kept file is broken.
    """
    why = _no_intervals(first, second)
    sure = {} if why is not None else _intervals(first, second, sets=sets)
    note = why or f"95 % intervals from {sets:,} draws of the {sure['images']:,} test images, the same for both"
    return Diff(
        first=first.title,
        second=second.title,
        test=_changes(first.test, second.test, sure.get("metrics", {})),
        val=_changes(_without_losses(first.published.metrics), _without_losses(second.published.metrics), {}),
        classes=sure.get("classes") or _classes(first, second),
        note=note,
        config=_differing(first.config, second.config),
        data=_differing(_data(first), _data(second)),
        model=_differing(_model(first), _model(second)) | _weights(first, second),
    )


def _no_intervals(first: Dossier, second: Dossier) -> str | None:
    """Why the difference's certainty cannot be told; None if it can."""
    files = []
    for one in (first, second):
        truth = None if one.evaluation is None else one.evaluation / _TRUTH
        if truth is None or not truth.is_file() or not truth.with_name(_DETECTIONS).is_file():
            return f"no intervals: {one.title} has kept no detections of a test split"
        files.append(truth)
    if files[0].read_bytes() != files[1].read_bytes() and load_truth(files[0]).coco != load_truth(files[1]).coco:
        return "no intervals, and the figures do not compare: the two were measured on different test splits"
    protocols = {_protocol(first), _protocol(second)}
    if len(protocols) > 1:
        return f"the figures do not compare: they are by the protocols {' and '.join(sorted(protocols))}"
    if not protocols <= {"coco", "lvis"}:
        return f"no intervals: the bootstrap is of COCO's and LVIS's protocols, these are by {protocols.pop()}"
    return None


def _protocol(one: Dossier) -> str:
    return str(one.config.get("engine", {}).get("evaluation", {}).get("protocol", "coco"))


def _intervals(first: Dossier, second: Dossier, *, sets: int) -> dict[str, Any]:
    """`metrics` and `classes` with intervals, and the number of `images`."""
    assert first.evaluation is not None and second.evaluation is not None
    truth = load_truth(first.evaluation / _TRUTH)
    found = [_results(one.evaluation, truth) for one in (first, second) if one.evaluation is not None]
    kinds = [prefix for prefix in KINDS if f"{prefix}_ap" in first.test and f"{prefix}_ap" in second.test]
    metrics: dict[str, Interval] = {}
    classes: list[Change] = []
    for prefix in kinds:
        own, other = (_samples(truth, results, first, KINDS[prefix], sets=sets) for results in found)
        for name in _COMPARED:
            metrics[f"{prefix}_{name}"] = interval(mean(getattr(other, name)) - mean(getattr(own, name)))
        classes = classes or _class_changes(truth, own, other)
    return {"metrics": metrics, "classes": tuple(classes), "images": len(truth.coco["images"])}


def _results(evaluation: Path, truth: GroundTruth) -> Results:
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth.coco["images"]}
    return load_detections(evaluation / _DETECTIONS, sizes)


def _samples(truth: GroundTruth, results: Results, one: Dossier, kind: Kind, *, sets: int) -> Samples:
    sigmas = one.config.get("engine", {}).get("evaluation", {}).get("oks_sigmas")
    federated = _protocol(one) == "lvis"
    return resampled(Diagnosis(truth, results, kind=kind, sigmas=sigmas, federated=federated), sets=sets)


def _class_changes(truth: GroundTruth, own: Samples, other: Samples) -> list[Change]:
    changes = []
    for place, name in enumerate(truth.names_by_id):
        first, second = own.ap[:, place], other.ap[:, place]
        if first[0] == first[0]:  # NaN: the split has no object of it
            sure = interval(second - first)
            changes.append(
                Change(name=name, first=float(first[0]), second=float(second[0]), low=sure.low, high=sure.high)
            )
    return sorted(changes, key=lambda change: -(change.delta or 0.0))


def _changes(
    first: Mapping[str, float], second: Mapping[str, float], sure: Mapping[str, Interval]
) -> tuple[Change, ...]:
    return tuple(
        Change(
            name=name,
            first=first.get(name),
            second=second.get(name),
            low=sure[name].low if name in sure else None,
            high=sure[name].high if name in sure else None,
        )
        for name in dict.fromkeys([*first, *second])
    )


def _without_losses(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("val_")}


def _classes(first: Dossier, second: Dossier) -> tuple[Change, ...]:
    """By class, where there are no detections."""
    own, other = first.per_class, second.per_class
    tables = [*own.values(), *other.values()]
    name = next((f"{prefix}_ap" for prefix in KINDS if any(f"{prefix}_ap" in table for table in tables)), None)
    if name is None:
        return ()
    return tuple(
        Change(name=label, first=own.get(label, {}).get(name), second=other.get(label, {}).get(name))
        for label in dict.fromkeys([*own, *other])
    )


def _data(one: Dossier) -> dict[str, Any]:
    published = one.published
    return {
        "name": published.data.name,
        "content_hash": published.data.content_hash,
        "classes": list(published.labels),
        **{
            split: {name: values[name] for name in ("images", "objects", "objects_by_class") if name in values}
            for split, values in one.data.get("splits", {}).items()
        },
    }


def _model(one: Dossier) -> dict[str, Any]:
    published = one.published
    return {
        "detector": published.model.type,
        "recipe": getattr(published.model, "name", None),
        "parameters": one.num_parameters,
        "tensors": len(one.shapes),
        "input": published.preprocessing.model_dump(mode="json"),
    }


def _weights(first: Dossier, second: Dossier) -> dict[str, Pair]:
    """Which tensors only one has, and how far the shared ones moved, relative to their length."""
    if first.published.weights_sha256 == second.published.weights_sha256:
        return {}
    same = [name for name, shape in first.shapes.items() if second.shapes.get(name) == shape]
    own, other = (len(one.shapes) - len(same) for one in (first, second))
    found: dict[str, Pair] = {"weights_sha256": (first.published.weights_sha256, second.published.weights_sha256)}
    if own or other:
        found["tensors of its own, or of another shape"] = (own, other)
    if same:
        equal, moved = _distance(first.model_dir, second.model_dir, same)
        found["tensors of the same shape, and of these equal"] = (len(same), equal)
        found["distance of the shared weights, relative"] = (0.0, moved)
    return found


def _distance(first: Path, second: Path, names: Sequence[str]) -> tuple[int, float]:
    equal, length, distance = 0, 0.0, 0.0
    with safe_open(first / WEIGHTS, framework="pt") as own, safe_open(second / WEIGHTS, framework="pt") as other:
        for name in names:
            before, after = own.get_tensor(name).double(), other.get_tensor(name).double()
            equal += int(torch.equal(before, after))
            length += float(before.square().sum())
            distance += float((after - before).square().sum())
    return equal, (distance / length) ** 0.5 if length else 0.0


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Pair]:
    own, other = dict(_flat(first)), dict(_flat(second))
    return {
        name: (own.get(name), other.get(name))
        for name in dict.fromkeys([*own, *other])
        if own.get(name) != other.get(name)
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
