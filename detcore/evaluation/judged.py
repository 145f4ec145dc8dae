"""Which detections are true: what precision, recall and the best score threshold of a class are counted from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One class's detections by falling score, each counted with all before it.

    Attributes:
        recall, precision: (n,) float64.
        scores: (n,) float64.
    """

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    scores: NDArray[np.float64]

    def envelope(self) -> NDArray[np.float64]:
        """(n,) the highest precision at this recall or a higher one."""
        highest: NDArray[np.float64] = np.maximum.accumulate(self.precision[::-1])[::-1]
        return highest

    def at(self, recalls: NDArray[np.float64]) -> NDArray[np.float64]:
        """The envelope's precision at each of these recalls; 0 where it is not reached."""
        return np.append(self.envelope(), 0.0)[np.searchsorted(self.recall, recalls, side="left")]

    def area(self) -> float:
        """Below the envelope, all of it: average precision as Pascal VOC 2010 and Open Images define it."""
        return float(np.sum(np.diff(self.recall, prepend=0.0) * self.envelope()))


@dataclass(frozen=True, kw_only=True)
class Judged:
    """The detections that count, at one overlap; those of ignored objects and regions are not among them.

    Attributes:
        classes: (n,) int64, places in the order of the categories' ids.
        scores: (n,) float64.
        hits: (n,) bool: it found an object that no better one had found.
        num_objects: (classes,) int64, objects that there were to be found.
    """

    classes: NDArray[np.int64]
    scores: NDArray[np.float64]
    hits: NDArray[np.bool_]
    num_objects: NDArray[np.int64]

    def curve(self, index: int) -> Curve:
        """Of one class, which has objects. Of equal scores the first row is the first."""
        own = np.flatnonzero(self.classes == index)
        own = own[np.argsort(-self.scores[own], kind="stable")]
        true = np.cumsum(self.hits[own], dtype=np.float64)
        return Curve(
            recall=true / self.num_objects[index],
            precision=true / np.arange(1, len(own) + 1),
            scores=self.scores[own],
        )

    def curves(self) -> dict[int, Curve]:
        """Of every class that has objects."""
        return {index: self.curve(index) for index in np.flatnonzero(self.num_objects).tolist()}


def best_f1(judged: Judged, names: Sequence[str], *, prefix: str) -> dict[str, dict[str, float]]:
    """Where each class is at its best: the score from which on detections should be kept for the highest F1.

    Returns:
        By class name, without the classes that have no object: {prefix}_f1, {prefix}_f1_precision and
        {prefix}_f1_recall in percent, {prefix}_f1_score the threshold. Of a class without a true detection the figures
        are 0 and the threshold is 1.
    """
    tables = {}
    for index, curve in judged.curves().items():
        # Detections of one score are kept or dropped together.
        ends = np.flatnonzero(np.diff(curve.scores, append=-np.inf))
        precision, recall = curve.precision[ends], curve.recall[ends]
        f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(np.float64).tiny)
        best = int(f1.argmax()) if f1.any() else None
        values = (0.0, 0.0, 0.0) if best is None else (f1[best], precision[best], recall[best])
        tables[names[index]] = {
            **{
                f"{prefix}_{name}": 100.0 * float(value)
                for name, value in zip(("f1", "f1_precision", "f1_recall"), values, strict=True)
            },
            f"{prefix}_f1_score": 1.0 if best is None else float(curve.scores[ends[best]]),
        }
    return tables
