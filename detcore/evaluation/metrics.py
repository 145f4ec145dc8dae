"""From COCO's precision and recall arrays to what people read: headline metrics, a table by class, a curve."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.coco import RECALLS, Accumulated
from detcore.evaluation.judged import Judged, best_f1

_IOU_50, _IOU_75 = 0, 5
_ALL_AREAS = 0
_HIGHEST_LIMIT = -1


@dataclass(frozen=True, kw_only=True)
class PRCurve:
    """Precision over recall at IoU 0.5 (of keypoints: similarity 0.5), interpolated as COCO's.

    Attributes:
        recall: (101,) from 0 to 1.
        mean: (101,) precision, the mean over classes.
        by_class: class name -> (101,) precision; without the classes that have no object.
    """

    recall: NDArray[np.float64]
    mean: NDArray[np.float64]
    by_class: dict[str, NDArray[np.float64]]

    def rows(self) -> list[dict[str, float | str]]:
        """Long form, for plots from JSON or CSV: class ('mean' first), recall, precision."""
        curves = {"mean": self.mean, **self.by_class}
        return [
            {"class": name, "recall": float(recall), "precision": float(precision)}
            for name, curve in curves.items()
            for recall, precision in zip(self.recall, curve, strict=True)
        ]


@dataclass(frozen=True)
class Outcome:
    """What one kind of prediction gives, in percent.

    Attributes:
        metrics: by name.
        per_class: class name -> metrics; without the classes that have no object.
        curve: precision over recall, or None.
        confusion: (classes, classes) pixels by true and by predicted class, or None.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    curve: PRCurve | None = None
    confusion: NDArray[np.int64] | None = None


def average_precision(
    arrays: Accumulated,
    names: Sequence[str],
    *,
    prefix: str,
    recall: str,
    groups: Mapping[str, Sequence[int]] = MappingProxyType({}),
) -> Outcome:
    """The metrics of COCO's arrays.

    Args:
        arrays: with the best F1 of each class where they say which detections are true.
        names: of the arrays' classes.
        prefix: what the metrics' names begin with.
        recall: name of the average recall.
        groups: of classes, whose average precision is given as `{prefix}_ap_{group}`.
    """
    metrics = _headline(arrays, prefix, recall, sizes=True)
    for name, classes in groups.items():
        mean = _mean(arrays.precision[:, :, list(classes), _ALL_AREAS, _HIGHEST_LIMIT])
        metrics |= {} if mean is None else {f"{prefix}_ap_{name}": 100.0 * mean}
    per_class = _by_class(arrays, names, prefix, recall)
    if arrays.judged is not None:
        per_class = _joined(per_class, best_f1(arrays.judged, names, prefix=prefix))
    return Outcome(metrics=metrics, per_class=per_class, curve=_pr_curve(arrays, names))


def judged_precision(
    judgements: Sequence[Judged],
    names: Sequence[str],
    *,
    prefix: str,
    precision_of: Callable[[Judged, int], float],
    operating_points: bool,
) -> Outcome:
    """The metrics of detections judged one by one, where average precision is not COCO's.

    Args:
        judgements: at IoU 0.5 alone, for `{prefix}_ap50` and `_ar50`; or at COCO's 10 thresholds, for `_ap`, `_ap75`
            and `_ar` besides.
        names: of the classes.
        prefix: what the metrics' names begin with.
        precision_of: average precision of a class.
        operating_points: also the best F1 of each class.
    """
    classes = np.flatnonzero(judgements[0].num_objects).tolist()
    precision = np.array([[precision_of(judged, index) for index in classes] for judged in judgements])
    recall = np.array([[judged.curve(index).recall.max(initial=0.0) for index in classes] for judged in judgements])
    by_class = {"ap50": precision[_IOU_50], "ar50": recall[_IOU_50]}
    if len(judgements) > 1:
        every = {"ap": precision.mean(axis=0), "ap50": precision[_IOU_50], "ap75": precision[_IOU_75]}
        by_class = {**every, "ar": recall.mean(axis=0), "ar50": recall[_IOU_50]}
    per_class = {
        names[index]: {f"{prefix}_{name}": 100.0 * float(values[place]) for name, values in by_class.items()}
        for place, index in enumerate(classes)
    }
    if operating_points:
        per_class = _joined(per_class, best_f1(judgements[_IOU_50], names, prefix=prefix))
    return Outcome(
        metrics={f"{prefix}_{name}": 100.0 * float(values.mean()) for name, values in by_class.items()},
        per_class=per_class,
        curve=pr_curve(judgements[_IOU_50], names),
    )


def pr_curve(judged: Judged, names: Sequence[str]) -> PRCurve:
    """Of the classes that have objects, by their names in the order of the judgement's classes."""
    curves = {names[index]: curve.at(RECALLS) for index, curve in judged.curves().items()}
    return PRCurve(recall=RECALLS, mean=np.mean(list(curves.values()), axis=0), by_class=curves)


def _joined(
    tables: Mapping[str, Mapping[str, float]], others: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    return {name: {**table, **others.get(name, {})} for name, table in tables.items()}


def _headline(arrays: Accumulated, prefix: str, recall: str, *, sizes: bool) -> dict[str, float]:
    """COCO's metrics in percent, as `{prefix}_ap` and so on, at the highest limit of detections.

    A metric that has no object to be measured on (`ap_large` where nothing is large) is left out: it has no value.
    Where there are objects and no detections it is 0.
    """
    precision = arrays.precision[..., _HIGHEST_LIMIT]
    by_size = {f"ap_{area}": precision[..., index] for index, area in enumerate(arrays.areas) if index != _ALL_AREAS}
    values = {
        "ap": precision[..., _ALL_AREAS],
        "ap50": precision[_IOU_50, ..., _ALL_AREAS],
        "ap75": precision[_IOU_75, ..., _ALL_AREAS],
        **(by_size if sizes else {}),
        recall: arrays.recall[..., _ALL_AREAS, _HIGHEST_LIMIT],
    }
    means = {name: _mean(part) for name, part in values.items()}
    return {f"{prefix}_{name}": 100.0 * value for name, value in means.items() if value is not None}


def _by_class(arrays: Accumulated, names: Sequence[str], prefix: str, recall: str) -> dict[str, dict[str, float]]:
    tables = {}
    for index, name in enumerate(names):
        own = slice(index, index + 1)
        one = replace(arrays, precision=arrays.precision[:, :, own], recall=arrays.recall[:, own])
        tables[name] = _headline(one, prefix, recall, sizes=False)
    return {name: table for name, table in tables.items() if table}


def _pr_curve(arrays: Accumulated, names: Sequence[str]) -> PRCurve:
    precision = arrays.precision[_IOU_50, :, :, _ALL_AREAS, _HIGHEST_LIMIT]  # (101, classes)
    curves = {name: curve for name, curve in zip(names, precision.T, strict=True) if curve[0] >= 0.0}
    return PRCurve(recall=RECALLS, mean=np.mean(list(curves.values()), axis=0), by_class=curves)


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[values > -1.0]
    return float(np.mean(defined)) if defined.size else None
