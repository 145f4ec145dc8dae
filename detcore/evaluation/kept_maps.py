"""Maps of a few images, true and predicted, kept to be looked at."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.images import BatchInImages
from detcore.evaluation.metrics import Outcome
from detcore.evaluation.panoptic import Segments, true_segments
from detcore.evaluation.semantic import UNLABELLED
from detcore.evaluation.truth import PanopticMap, SemanticMap

_LONGEST_SIDE = 1000
"""In pixels: a map is to be seen beside another, and carried between ranks."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RegionMap:
    """Which pixels of an image are of which class of the semantic map. Of a panoptic map things are left out.

    Attributes:
        ids: (h, w) int32, the region of each pixel, 0 where there is none; of a large image every second pixel, or
            every third, and so on.
        classes: of each region.
    """

    ids: NDArray[np.int32]
    classes: Mapping[int, int]

    @classmethod
    def of(cls, ids: NDArray[np.integer], classes: Mapping[int, int]) -> Self:
        """A panoptic map (height, width) of segments, of which `classes` has those that are no things."""
        small = _small(ids)
        there = [number for number in np.unique(small).tolist() if number in classes]
        return cls(
            ids=np.where(np.isin(small, there), small, 0).astype(np.int32),
            classes={number: classes[number] for number in there},
        )

    @classmethod
    def of_semantic(cls, classes: NDArray[np.integer], *, unlabelled: int | None = None) -> Self:
        """A map (height, width) of classes: each is one region."""
        ids = np.where(classes == unlabelled, -1, classes.astype(np.int32)) + 1
        return cls.of(ids, {number: number - 1 for number in range(1, int(ids.max(initial=0)) + 1)})

    @classmethod
    def of_segments(cls, segments: Segments) -> Self:
        return cls.of(segments.ids, {i: category for i, (thing, category) in segments.categories.items() if not thing})


MapPair = tuple[RegionMap, RegionMap]
"""What is true, and what was predicted."""


def semantic_pair(found: BatchInImages, row: int, *, truth: Callable[[int], SemanticMap]) -> MapPair:
    """The semantic maps of a row of a batch."""
    true = RegionMap.of_semantic(truth(found.samples[row]), unlabelled=UNLABELLED)
    return true, RegionMap.of_semantic(found.semantic(row).cpu().numpy())


def panoptic_pair(
    found: BatchInImages,
    row: int,
    *,
    truth: Callable[[int], PanopticMap],
    combine: Callable[[BatchInImages, int], Segments],
) -> MapPair:
    """The stuff of a row's panoptic maps."""
    true = true_segments(*truth(found.samples[row]))
    return RegionMap.of_segments(true), RegionMap.of_segments(combine(found, row))


class KeptMaps:
    """The maps of some samples: a part of an evaluator, which measures nothing.

    Args:
        samples: whose maps are kept.
        compared: the maps of a row of a batch.
    """

    def __init__(self, samples: Collection[int], compared: Callable[[BatchInImages, int], MapPair]) -> None:
        self._samples = frozenset(samples)
        self._compared = compared
        self.by_image: dict[int, MapPair] = {}

    def add(self, found: BatchInImages) -> None:
        for row in found.rows:
            if found.samples[row] in self._samples:
                self.by_image[found.images[row]["id"]] = self._compared(found, row)

    def state(self) -> dict[int, MapPair]:
        return self.by_image

    def merge(self, states: Iterable[dict[int, MapPair]]) -> None:
        self.by_image = {image_id: pair for state in states for image_id, pair in state.items()}

    def compute(self) -> dict[str, Outcome]:
        return {}


def _small(ids: NDArray[np.integer]) -> NDArray[np.integer]:
    step = -(-max(ids.shape) // _LONGEST_SIDE)
    return ids[::step, ::step]
