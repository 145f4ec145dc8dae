"""How sure average precision is: the same figures of many data sets drawn from the images of one, with repetition.

The bootstrap (Efron, 1979) over images, whose objects are not independent of each other. A set is a weight for each
image; of the detections, sorted once, weighted counts are summed, so that a set costs a few passes over arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.coco import RECALLS
from detcore.evaluation.diagnosis import Diagnosis, Matches

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A figure and how far it may be off.

    Attributes:
        value: on all images, each once.
        low, high: value and the 2.5th and 97.5th percentile of the sets' distance from their own mean. Images that a
            set has twice lift interpolated precision a little: the sets' mean is not the value.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Average precision in percent on each set; the first is all images, each once.

    Attributes:
        ap: (sets, classes), mean over IoU 0.50:0.05:0.95; NaN where a set has no object of a class.
        ap50: (sets, classes).
        ap75: (sets, classes).
    """

    ap: Floats
    ap50: Floats
    ap75: Floats

    def intervals(self) -> dict[str, Interval]:
        """Of the means over classes."""
        return {name: interval(mean(getattr(self, name))) for name in ("ap", "ap50", "ap75")}


def mean(by_class: Floats) -> Floats:
    """(sets, classes) -> (sets,) over the classes that are there."""
    there = ~np.isnan(by_class)
    total: Floats = np.where(there, by_class, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    return total


def interval(values: Floats) -> Interval:
    """(sets,), the first of all images. Sets on which there is no value are left out."""
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = values[0] + (np.percentile(drawn, (2.5, 97.5)) - drawn.mean() if len(drawn) else np.zeros(2))
    return Interval(value=float(values[0]), low=float(low), high=float(high))


def resampled(diagnosis: Diagnosis, *, sets: int = 1000, seed: int = 0) -> Samples:
    """Average precision on `sets` sets of images: the same ones for each model of the same truth and seed."""
    every = diagnosis.all_matches()
    table = _Sorted(diagnosis, every)
    images = len(diagnosis.truth.coco["images"])
    rng = np.random.default_rng(seed)
    rows = [table.precision(np.ones(images))]
    for _ in range(sets):
        drawn = rng.integers(0, images, images)
        rows.append(table.precision(np.bincount(drawn, minlength=images).astype(np.float64)))
    found = 100.0 * np.stack(rows)  # (sets + 1, thresholds, classes)
    return Samples(ap=found.mean(axis=1), ap50=found[:, 0], ap75=found[:, 5])


class _Sorted:
    """All detections by class, then falling score; and at each threshold where the hits and those without count are."""

    def __init__(self, diagnosis: Diagnosis, every: Sequence[Matches]) -> None:
        truth, results = diagnosis.truth, diagnosis.results
        place = {image["id"]: index for index, image in enumerate(truth.coco["images"])}
        classes = truth.loaded.classes_of(results.category_ids)
        # Of equal scores the first image's is the first, as in COCO.
        image_order = np.argsort(np.argsort([image["id"] for image in truth.coco["images"]]))
        images = np.array([place[image] for image in results.image_ids.tolist()], dtype=np.int64)
        order = np.lexsort(
            (np.arange(len(images)), image_order[images] if len(images) else images, -results.scores, classes)
        )
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        self._num_classes = len(truth.coco["categories"])
        self._images = images[order]
        self._starts = np.searchsorted(classes[order], np.arange(self._num_classes))
        self._hits: list[tuple[Ints, Ints]] = []
        self._uncounted: list[Ints] = []
        for matches in every:
            hits = np.sort(rank[matches.rows[matches.hits]])
            self._hits.append((hits, classes[order][hits]))
            counted = np.zeros(len(order), np.bool_)
            counted[rank[matches.rows]] = True
            self._uncounted.append(np.flatnonzero(~counted))
        annotations = truth.coco["annotations"]
        sought = [annotations[index] for index in every[0].sought.tolist()]
        self._object_images = np.array([place[a["image_id"]] for a in sought], dtype=np.int64)
        self._object_classes = truth.loaded.classes_of(np.array([a["category_id"] for a in sought], dtype=np.int64))

    def precision(self, weights: Floats) -> Floats:
        """Images' weights -> (thresholds, classes) average precision as COCO's, NaN without an object."""
        own = weights[self._images]
        before = np.concatenate(([0.0], np.cumsum(own)))
        objects = _sums(self._object_classes, weights[self._object_images], self._num_classes)
        rows = [
            self._at(own, before, objects, hits, classes, uncounted)
            for (hits, classes), uncounted in zip(self._hits, self._uncounted, strict=True)
        ]
        return np.where(objects > 0, np.stack(rows), np.nan)

    def _at(self, own: Floats, before: Floats, objects: Floats, hits: Ints, classes: Ints, uncounted: Ints) -> Floats:
        """At one threshold. Between two hits precision only falls: the hits are all that there is to look at."""
        skipped = np.concatenate(([0.0], np.cumsum(own[uncounted])))
        start = before[self._starts] - skipped[np.searchsorted(uncounted, self._starts)]
        counted = before[hits + 1] - skipped[np.searchsorted(uncounted, hits)] - start[classes]
        true = np.cumsum(own[hits])
        firsts = np.searchsorted(classes, np.arange(self._num_classes))
        true -= np.concatenate(([0.0], true))[firsts][classes]
        recall = true / np.maximum(objects[classes], 1.0)
        precision = true / np.maximum(counted, 1e-9)
        # The highest from here on, of each class for itself: classes lie two apart, the last lowest.
        lift = 2.0 * (self._num_classes - classes)
        highest = np.maximum.accumulate((precision + lift)[::-1])[::-1] - lift
        reached = _recalls_reached(recall)
        previous = np.concatenate(([0], reached[:-1]))
        previous[firsts[firsts < len(hits)]] = 0
        return _sums(classes, highest * (reached - previous), self._num_classes) / len(RECALLS)


def _sums(classes: Ints, values: Floats, num_classes: int) -> Floats:
    return np.bincount(classes, values, num_classes).astype(np.float64)


def _recalls_reached(recall: Floats) -> Ints:
    """How many of COCO's 101 recalls are not above each of these."""
    nearest = np.rint(recall * (len(RECALLS) - 1)).astype(np.int64)
    reached: Ints = nearest + (RECALLS[nearest] <= recall)
    return reached
