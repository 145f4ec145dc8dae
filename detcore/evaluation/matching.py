"""COCO's matching and its precision and recall, for any overlap between a detection and an object.

The protocol is that of the COCO evaluation (Lin et al., "Microsoft COCO", ECCV 2014): per image and class, detections
by falling score each take the free object that they overlap most, counted objects before ignored ones; a crowd region
can be taken again and again. Equal to pycocotools for upright boxes, which the tests hold.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.coco import AREAS, IOU_THRESHOLDS, RECALLS, Accumulated
from detcore.evaluation.judged import Judged

_LIMITS = (1, 10, 100)
_AREA_RANGES = np.array(list(AREAS.values()))

Overlap = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]
"""Rows of detections (n,) and of objects (m,) -> (n, m). With a crowd region: the share of the detection in it."""


_Matches = list[tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]]
"""Of each image the scores (n,), the hits and those that do not count (areas, thresholds, n), the objects (areas,)."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Detections or objects of a data set, N rows.

    Attributes:
        image_ids, category_ids: (N,) int64.
        areas: (N,) float64, square pixels.
    """

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    areas: NDArray[np.float64]

    def groups(self) -> dict[tuple[int, int], NDArray[np.int64]]:
        """The rows of each category in each image, in order."""
        rows = defaultdict(list)
        for row, key in enumerate(zip(self.category_ids.tolist(), self.image_ids.tolist(), strict=True)):
            rows[key].append(row)
        return {key: np.array(own, dtype=np.int64) for key, own in rows.items()}


def accumulate_matches(
    found: Columns,
    scores: NDArray[np.float64],
    objects: Columns,
    crowd: NDArray[np.bool_],
    *,
    overlap: Overlap,
    category_ids: Sequence[int],
    judged: bool = False,
) -> Accumulated:
    """COCO's arrays of detections against objects.

    Args:
        found: N detections.
        scores: (N,) float64.
        objects: M objects, crowd regions included.
        crowd: (M,) bool.
        overlap: between rows of `found` and rows of `objects`.
        category_ids: in the order of the arrays' classes.
        judged: also give which detections are true at IoU 0.5.
    """
    classes = len(category_ids)
    by_class: list[_Matches] = []
    precision = -np.ones((len(IOU_THRESHOLDS), len(RECALLS), classes, len(AREAS), len(_LIMITS)))
    recall = -np.ones((len(IOU_THRESHOLDS), classes, len(AREAS), len(_LIMITS)))
    found_groups, object_groups = found.groups(), objects.groups()
    nothing = np.zeros(0, np.int64)
    for index, category in enumerate(category_ids):
        images = sorted({image for own, image in found_groups.keys() | object_groups.keys() if own == category})
        matches: _Matches = []
        by_class.append(matches)
        for image in images:
            rows, truth = found_groups.get((category, image), nothing), object_groups.get((category, image), nothing)
            rows = rows[np.argsort(-scores[rows], kind="stable")][: _LIMITS[-1]]
            ignored = crowd[truth] | _outside(objects.areas[truth])
            hit, left_out = _match(overlap(rows, truth), ignored, crowd[truth])
            left_out |= ~hit & _outside(found.areas[rows])[:, None]
            matches.append((scores[rows], hit, left_out, (~ignored).sum(axis=1)))
        if not matches:
            continue
        for place, limit in enumerate(_LIMITS):
            own_scores = np.concatenate([own[:limit] for own, *_ in matches])
            order = np.argsort(-own_scores, kind="stable")
            hits = np.concatenate([hit[:, :, :limit] for _, hit, _, _ in matches], axis=2)[..., order]
            left = np.concatenate([left[:, :, :limit] for _, _, left, _ in matches], axis=2)[..., order]
            for area, count in enumerate(np.sum([count for *_, count in matches], axis=0)):
                if count:
                    curve, highest = _precision(hits[area], left[area], count)
                    precision[:, :, index, area, place], recall[:, index, area, place] = curve, highest
    return Accumulated(precision, recall, judged=_judged(by_class) if judged else None)


def _judged(by_class: Sequence[_Matches]) -> Judged:
    """At the first IoU threshold, in objects of all sizes."""
    columns = [
        (np.full(len(scores), index), scores, hit[0, 0], left_out[0, 0])
        for index, matches in enumerate(by_class)
        for scores, hit, left_out, _ in matches
    ]
    classes, scores, hits, left_out = (np.concatenate(column) for column in zip(*columns, strict=True))
    return Judged(
        classes=classes[~left_out],
        scores=scores[~left_out],
        hits=hits[~left_out],
        num_objects=np.array([sum(int(count[0]) for *_, count in matches) for matches in by_class]),
    )


def _outside(areas: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(n,) -> (areas, n): not of a range."""
    low, high = _AREA_RANGES[:, :1], _AREA_RANGES[:, 1:]
    outside: NDArray[np.bool_] = (areas < low) | (areas > high)
    return outside


def _match(
    overlaps: NDArray[np.float64], ignored: NDArray[np.bool_], crowd: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections, by falling score, hit an object, and which of these hits are of ignored ones.

    Args:
        overlaps: (n, m).
        ignored: (areas, m).
        crowd: (m,).

    Returns:
        Two (areas, thresholds, n) bool.
    """
    areas, (count, objects) = len(ignored), overlaps.shape
    hit = np.zeros((areas, len(IOU_THRESHOLDS), count), bool)
    left_out = np.zeros_like(hit)
    if not objects:
        return hit, left_out
    free = np.ones((areas, len(IOU_THRESHOLDS), objects), bool)
    least = np.minimum(IOU_THRESHOLDS, 1 - 1e-10)[:, None]
    for row in range(count):
        usable = (free | crowd) & (overlaps[row] >= least)
        counted = usable & ~ignored[:, None]
        usable = np.where(counted.any(axis=2, keepdims=True), counted, usable)
        # Of equal overlaps the last, as in COCO.
        best = objects - 1 - np.where(usable, overlaps[row], -1.0)[..., ::-1].argmax(axis=2)
        hit[..., row] = usable.any(axis=2)
        left_out[..., row] = hit[..., row] & np.take_along_axis(ignored, best, axis=1)
        taken = np.arange(objects) == best[..., None]
        free &= ~(taken & hit[..., row, None])
    return hit, left_out


def _precision(
    hits: NDArray[np.bool_], left_out: NDArray[np.bool_], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(thresholds, n) by falling score -> interpolated precision (thresholds, 101), highest recall (thresholds,)."""
    true = np.cumsum(hits & ~left_out, axis=1, dtype=np.float64)
    false = np.cumsum(~hits & ~left_out, axis=1, dtype=np.float64)
    recall, precision = true / count, true / (false + true + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    curve = np.zeros((len(hits), len(RECALLS)))
    for row, (own_recall, own_precision) in enumerate(zip(recall, precision, strict=True)):
        place = np.searchsorted(own_recall, RECALLS, side="left")
        reached = place < len(own_precision)
        curve[row, reached] = own_precision[place[reached]]
    return curve, recall[:, -1] if recall.shape[1] else np.zeros(len(hits))
