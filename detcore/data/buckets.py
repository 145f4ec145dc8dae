"""Buckets: the few padded shapes that batches have.

One shape for all wastes pixels; a shape for each batch defeats compilation and makes a result depend on batch mates. So
a small set of shapes is chosen once, from the sizes that the pipeline can produce, and each image goes to the smallest
that holds it.
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, int]
"""Height and width, in pixels."""

# Stands for "does not fit": above any real area, yet sums over tens of millions of images stay in int64.
_UNCOVERED = 1 << 36


def choose_buckets(
    sizes: NDArray[np.int64], *, max_buckets: int, divisor: int, spare_rows: int = 0
) -> tuple[Shape, ...]:
    """Chooses at most `max_buckets` shapes that hold all `sizes` with few padded pixels.

    Shapes are added one at a time, the one that saves most, to twice as many as wanted, then removed likewise; after
    each step every shape is replaced by a better one as long as there is any (as in k-medoids), and in the end every
    two are. On COCO's sizes that is within 0.1% of the best choice there is, which an integer program takes seconds to
    find. All in integers, with ties to the first, so every rank and machine chooses the same.

    Args:
        sizes: (N, 2) heights and widths, each as often as it occurs.
        max_buckets: at least 1.
        divisor: heights and widths are multiples of it.
        spare_rows: empty rows that one more bucket costs, as its last batch is not full; counted as `sizes`' rows are.

    Returns:
        The shapes by falling area, so that a pass in their order meets its peak of memory at once.
    """
    padded = -(-np.asarray(sizes, np.int64) // divisor) * divisor
    # As single numbers: for a million rows, numpy takes seconds to find the distinct pairs.
    codes, counts = np.unique(padded[:, 0] << 32 | padded[:, 1], return_counts=True)
    cells = np.stack([codes >> 32, codes & 0xFFFFFFFF], axis=1)
    heights, widths = np.unique(cells[:, 0]), np.unique(cells[:, 1])
    shapes = np.stack(np.meshgrid(heights, widths, indexing="ij"), axis=-1).reshape(-1, 2)
    covers = np.all(shapes[:, None] >= cells, axis=-1)
    # A shape whose height or width no cell within it reaches is never better than a smaller one.
    tight = (np.where(covers[..., None], cells, 0).max(axis=1) == shapes).all(axis=1)
    shapes, covers = shapes[tight], covers[tight]
    search = _Search(shapes.prod(axis=1), covers, counts, spare_rows)
    chosen: list[int] = []
    for _ in range(2 * max_buckets):
        more = search.with_best(chosen)
        if search.cost(more) >= search.cost(chosen):
            break
        chosen = search.polished(more)
    while len(chosen) > 1:
        fewer = min((chosen[:place] + chosen[place + 1 :] for place in range(len(chosen))), key=search.cost)
        if len(chosen) <= max_buckets and search.cost(fewer) > search.cost(chosen):
            break
        chosen = search.polished(fewer)
    chosen = search.exchanged(chosen)
    return tuple(sorted(((int(h), int(w)) for h, w in shapes[chosen]), key=lambda hw: (-hw[0] * hw[1], hw)))


class _Search:
    """Costs in pixels of sets of candidate shapes, which are lists of indices."""

    def __init__(
        self, areas: NDArray[np.int64], covers: NDArray[np.bool_], counts: NDArray[np.int64], spare_rows: int
    ) -> None:
        self._prices = np.where(covers, areas[:, None], _UNCOVERED)  # (shapes, cells)
        self._counts = counts
        self._own = spare_rows * areas

    def cost(self, chosen: list[int]) -> int:
        return int(self._paid(chosen) @ self._counts + self._own[chosen].sum())

    def with_best(self, others: list[int]) -> list[int]:
        """`others` and the shape that is best beside them."""
        costs = np.minimum(self._prices, self._paid(others)) @ self._counts + self._own
        return [*others, int(costs.argmin())]

    def polished(self, chosen: list[int]) -> list[int]:
        """Each shape replaced by the best beside the others, in turn, until that changes nothing."""
        unchanged = 0
        while unchanged < len(chosen):
            better = self.with_best(chosen[1:])
            improves = self.cost(better) < self.cost(chosen)
            unchanged = 0 if improves else unchanged + 1
            chosen = better if improves else [*chosen[1:], chosen[0]]
        return chosen

    def exchanged(self, chosen: list[int]) -> list[int]:
        """Any two shapes replaced by the best beside the others, until that changes nothing."""
        for pair in combinations(chosen, 2):
            others = self.with_best(self.with_best([shape for shape in chosen if shape not in pair]))
            if self.cost(others) < self.cost(chosen):
                return self.exchanged(self.polished(others))
        return chosen

    def _paid(self, chosen: list[int]) -> NDArray[np.int64]:
        """The area that each cell takes up."""
        paid: NDArray[np.int64] = self._prices[chosen].min(axis=0, initial=_UNCOVERED)
        return paid


def shrunk_to_fit(sizes: NDArray[np.int64], buckets: tuple[Shape, ...]) -> NDArray[np.int64]:
    """`sizes` (N, 2), those that no bucket holds as small as they become in the one that they fit best.

    Where a pipeline can draw very many sizes, buckets are chosen for some of them.
    """
    ratio = (np.array(buckets) / sizes[:, None]).min(axis=2).max(axis=1)
    return np.where(ratio[:, None] < 1.0, np.maximum((sizes * ratio[:, None]).astype(np.int64), 1), sizes)


def assign_buckets(sizes: NDArray[np.int64], buckets: tuple[Shape, ...]) -> NDArray[np.int64]:
    """Index of the smallest bucket that holds each of `sizes` (N, 2), as (N,): a function of that size alone.

    Raises:
        ValueError: a size that no bucket holds.
    """
    shapes = np.array(buckets, np.int64)
    fits = np.all(sizes[:, None] <= shapes, axis=-1)
    homeless = sizes[~fits.any(axis=1)]
    if len(homeless):
        raise ValueError(f"no bucket of {buckets} holds the size {tuple(homeless[0].tolist())}")
    smallest: NDArray[np.int64] = np.where(fits, shapes.prod(axis=1), _UNCOVERED).argmin(axis=1)
    return smallest
