"""From COCO's precision and recall arrays to what people read: headline metrics, a table by class, a curve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.coco import Accumulated

_AREAS = {"small": 1, "medium": 2, "large": 3}
"""Below 32² pixels, up to 96², above: COCO's third area index."""
_RECALLS = np.linspace(0.0, 1.0, 101)
_IOU_50, _IOU_75 = 0, 5
_ALL_AREAS = 0
_LIMIT_100 = 2


@dataclass(frozen=True, kw_only=True)
class PRCurve:
    """Precision over recall at IoU 0.5, up to 100 detections an image, interpolated as COCO's.

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


def headline(arrays: Accumulated, prefix: str) -> dict[str, float]:
    """COCO's metrics in percent, as `{prefix}_ap` and so on.

    A metric that has no object to be measured on (`ap_large` where nothing is large) is left out: it has no value.
    Where there are objects and no detections it is 0.
    """
    precision = arrays.precision[..., _LIMIT_100]
    values = {
        "ap": _mean(precision[..., _ALL_AREAS]),
        "ap50": _mean(precision[_IOU_50, ..., _ALL_AREAS]),
        "ap75": _mean(precision[_IOU_75, ..., _ALL_AREAS]),
        **{f"ap_{area}": _mean(precision[..., index]) for area, index in _AREAS.items()},
        "ar100": _mean(arrays.recall[..., _ALL_AREAS, _LIMIT_100]),
    }
    return {f"{prefix}_{name}": 100.0 * value for name, value in values.items() if value is not None}


def by_class(arrays: Accumulated, names: Sequence[str], prefix: str) -> dict[str, dict[str, float]]:
    """AP, AP50, AP75 and AR100 of each class in percent; without the classes that have no object."""
    tables = {}
    for index, name in enumerate(names):
        one = Accumulated(arrays.precision[:, :, index : index + 1], arrays.recall[:, index : index + 1])
        table = headline(one, prefix)
        if table:
            tables[name] = {key: value for key, value in table.items() if not key.endswith(tuple(_AREAS))}
    return tables


def pr_curve(arrays: Accumulated, names: Sequence[str]) -> PRCurve:
    precision = arrays.precision[_IOU_50, :, :, _ALL_AREAS, _LIMIT_100]  # (101, classes)
    curves = {name: curve for name, curve in zip(names, precision.T, strict=True) if curve[0] >= 0.0}
    return PRCurve(recall=_RECALLS, mean=np.mean(list(curves.values()), axis=0), by_class=curves)


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[values > -1.0]
    return float(np.mean(defined)) if defined.size else None
