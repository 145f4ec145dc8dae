"""What becomes of detections when only those from a score on are kept."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.judged import Judged

_STEPS = 1000


@dataclass(frozen=True, kw_only=True)
class ScoreCurves:
    """Precision, recall and F1 over the score threshold, at IoU 0.5.

    Attributes:
        thresholds: (n,) rising, from 0 (or the least score) to 1 (or the highest).
        classes: (c,) int64, places of the classes that have objects.
        precision, recall, f1: (c, n) from 0 to 1; precision is 1 where nothing is kept.
    """

    thresholds: NDArray[np.float64]
    classes: NDArray[np.int64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]

    @property
    def best(self) -> int:
        """The place of the threshold at which the classes' mean F1 is highest; of equals, the middle one."""
        mean = self.f1.mean(axis=0)
        there = np.flatnonzero(mean >= mean.max() - 1e-12)
        return int(there[len(there) // 2])

    def of_classes(self, places: NDArray[np.int64]) -> "ScoreCurves":
        """Of some of the classes, by their place among `classes`."""
        return ScoreCurves(
            thresholds=self.thresholds,
            classes=self.classes[places],
            precision=self.precision[places],
            recall=self.recall[places],
            f1=self.f1[places],
        )


def score_curves(judged: Judged) -> ScoreCurves:
    """Of each class that has objects.

    Raises:
        ValueError: no class has.
    """
    curves = judged.curves()
    if not curves:
        raise ValueError("there is no object to be found")
    low, high = min(0.0, judged.scores.min(initial=0.0)), max(1.0, judged.scores.max(initial=1.0))
    thresholds = np.linspace(low, high, _STEPS + 1)
    precision, recall = (np.zeros((len(curves), len(thresholds))) for _ in range(2))
    for row, curve in enumerate(curves.values()):
        kept = np.searchsorted(-curve.scores, -thresholds, side="right")
        precision[row] = np.append(1.0, curve.precision)[kept]
        recall[row] = np.append(0.0, curve.recall)[kept]
    total = np.maximum(precision + recall, np.finfo(np.float64).tiny)
    return ScoreCurves(
        thresholds=thresholds,
        classes=np.array(list(curves), dtype=np.int64),
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / total,
    )
