"""From COCO's precision and recall arrays to what people read: headline metrics, a table by class, a curve."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.coco import RECALLS, Accumulated

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
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    curve: PRCurve | None = None


def average_precision(arrays: Accumulated, names: Sequence[str], *, prefix: str, recall: str) -> Outcome:
    """The metrics of COCO's arrays, their names beginning with `prefix`; `recall` is the name of the average recall."""
    return Outcome(
        metrics=_headline(arrays, prefix, recall, sizes=True),
        per_class=_by_class(arrays, names, prefix, recall),
        curve=_pr_curve(arrays, names),
    )


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
