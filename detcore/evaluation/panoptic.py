"""Panoptic quality: Kirillov et al., "Panoptic Segmentation", arXiv:1801.00868, section 4."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.images import BatchInImages
from detcore.evaluation.metrics import Outcome
from detcore.evaluation.truth import PanopticMap
from detcore.ops import PanopticLimits, panoptic

Category = tuple[bool, int]
"""Whether things, and the class: of a thing the model's, of stuff that of the semantic map."""
_VOID = 0
_MATCH = 0.5
"""Segments match above this IoU: then at most one does. Predictions of which more is void or crowd do not count."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """A panoptic map.

    Attributes:
        ids: (height, width) integer, the segment of each pixel; 0 is void.
        categories: of each segment.
        crowd: ids of crowd regions.
    """

    ids: NDArray[np.integer]
    categories: dict[int, Category]
    crowd: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class PanopticCounts:
    """What the segments of one image come to: rows of one category each.

    Attributes:
        image_id: the ground truth's id.
        categories: n of them.
        counts: (n, 4) float64, the sum of the IoU of matches, matches, predictions without and truths without one.
    """

    image_id: int
    categories: tuple[Category, ...]
    counts: NDArray[np.float64]


def count_segments(truth: Segments, predicted: Segments) -> dict[Category, NDArray[np.float64]]:
    """Compares the maps of one image.

    Segments of one category match where their IoU, void left out of the union, is above 0.5. Crowd regions match
    nothing; a prediction without a match that lies with more than half in void and in crowd regions of its category is
    no error. Pixels of an id that is not among the categories are void.

    Returns:
        Category -> (4,): sum of IoU, matches, false positives, false negatives.
    """
    pairs, sizes = np.unique(
        np.stack((_known(truth), _known(predicted)), axis=-1).reshape(-1, 2), axis=0, return_counts=True
    )
    shared = {(a, b): size for (a, b), size in zip(pairs.tolist(), sizes.tolist(), strict=True)}
    true_areas: dict[int, int] = defaultdict(int)
    own_areas: dict[int, int] = defaultdict(int)
    for (a, b), size in shared.items():
        true_areas[a] += size
        own_areas[b] += size
    counts: dict[Category, NDArray[np.float64]] = defaultdict(lambda: np.zeros(4))
    matched_truth, matched = set(), set()
    for (a, b), size in shared.items():
        if _VOID in (a, b) or a in truth.crowd or truth.categories[a] != predicted.categories[b]:
            continue
        iou = size / (true_areas[a] + own_areas[b] - size - shared.get((_VOID, b), 0))
        if iou > _MATCH:
            counts[truth.categories[a]] += (iou, 1, 0, 0)
            matched_truth.add(a)
            matched.add(b)
    for a, category in truth.categories.items():
        if a not in matched_truth and a not in truth.crowd and a in true_areas:
            counts[category] += (0, 0, 0, 1)
    for b, category in predicted.categories.items():
        if b in matched or b not in own_areas:
            continue
        crowd = (a for a in truth.crowd if truth.categories[a] == category)
        excused = shared.get((_VOID, b), 0) + sum(shared.get((a, b), 0) for a in crowd)
        if excused <= _MATCH * own_areas[b]:
            counts[category] += (0, 0, 1, 0)
    return dict(counts)


def true_segments(ids: NDArray[np.integer], segments: Iterable[dict[str, Any]]) -> Segments:
    """A ground truth's map and its segments; see `PanopticMap`."""
    segments = tuple(segments)
    return Segments(
        ids=ids,
        categories={segment["id"]: (bool(segment["is_thing"]), segment["category"]) for segment in segments},
        crowd=frozenset(segment["id"] for segment in segments if segment["iscrowd"]),
    )


def predicted_segments(found: BatchInImages, row: int, limits: PanopticLimits) -> Segments:
    """A row's objects and pixels' classes in one map."""
    ids, segments = panoptic(found.detections, found.batch, row, limits)
    return Segments(
        ids=ids.cpu().numpy(),
        categories={segment.id: (segment.is_thing, segment.category) for segment in segments},
    )


def _known(segments: Segments) -> NDArray[np.int64]:
    known: NDArray[np.int64] = np.where(np.isin(segments.ids, list(segments.categories)), segments.ids, _VOID)
    return known.astype(np.int64)


def _qualities(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """(..., 4) counts of a category -> (..., 3) panoptic, segmentation and recognition quality, in percent."""
    iou, matches, false, missed = np.moveaxis(counts, -1, 0)
    recognition = matches / np.maximum(matches + 0.5 * false + 0.5 * missed, 0.5)
    segmentation = iou / np.maximum(matches, 1.0)
    return 100.0 * np.stack((recognition * segmentation, segmentation, recognition), axis=-1)


class PanopticMaps:
    """Panoptic, segmentation and recognition quality: means over the categories that an image of the data has.

    Args:
        truth: the true map of a sample.
        combine: the predicted map of a row of a batch.
        things: names of the model's classes.
        stuff: names of the semantic map's classes.
    """

    prefix = "panoptic"

    def __init__(
        self,
        *,
        truth: Callable[[int], PanopticMap],
        combine: Callable[[BatchInImages, int], Segments],
        things: Sequence[str],
        stuff: Sequence[str],
    ) -> None:
        self._truth, self._combine = truth, combine
        self._names = {(True, index): name for index, name in enumerate(things)}
        self._names |= {(False, i): f"{name} (stuff)" if name in things else name for i, name in enumerate(stuff)}
        self._by_image: dict[int, PanopticCounts] = {}

    def add(self, found: BatchInImages) -> None:
        """Takes a batch. Raises ValueError if the truth is of another size than its image."""
        for row in found.rows:
            image_id, (ids, segments) = found.images[row]["id"], self._truth(found.samples[row])
            if ids.shape != found.sizes[row]:
                raise ValueError(f"image {image_id}: its panoptic map is {ids.shape}, it is {found.sizes[row]}")
            counts = count_segments(true_segments(ids, segments), self._combine(found, row))
            categories = tuple(sorted(counts))
            table = np.array([counts[category] for category in categories]).reshape(-1, 4)
            self._by_image[image_id] = PanopticCounts(image_id=image_id, categories=categories, counts=table)

    def state(self) -> list[PanopticCounts]:
        return list(self._by_image.values())

    def merge(self, states: Iterable[list[PanopticCounts]]) -> None:
        self._by_image = {counts.image_id: counts for state in states for counts in state}

    def compute(self) -> dict[str, Outcome]:
        total: dict[Category, NDArray[np.float64]] = defaultdict(lambda: np.zeros(4))
        for _, image in sorted(self._by_image.items()):  # sums of floats depend on their order
            for category, counts in zip(image.categories, image.counts, strict=True):
                total[category] += counts
        qualities = {category: _qualities(counts) for category, counts in sorted(total.items())}
        groups = {
            "": list(qualities.values()),
            "_things": [values for (thing, _), values in qualities.items() if thing],
            "_stuff": [values for (thing, _), values in qualities.items() if not thing],
        }
        metrics = {
            f"{name}{group}": float(value)
            for group, values in groups.items()
            if values
            for name, value in zip(("pq", "sq", "rq"), np.mean(values, axis=0), strict=True)
        }
        per_class = {
            self._names[category]: dict(zip(("pq", "sq", "rq"), values.tolist(), strict=True))
            for category, values in qualities.items()
        }
        return {self.prefix: Outcome(metrics, per_class)}
