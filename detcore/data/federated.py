"""Which classes annotators looked for in an image, where they looked for a part of them (LVIS, arXiv:1908.03195).

The objects of an image speak for its positive classes. Of its negative ones it was made sure that there are none; of
its not exhaustive ones there are more than are annotated. Of any other class nothing is known: a detection of it counts
neither as true nor as false.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

NEGATIVE, NOT_EXHAUSTIVE = "negative_classes", "not_exhaustive_classes"
FEDERATED_FIELDS = tuple(pa.field(name, pa.large_list(pa.int32())) for name in (NEGATIVE, NOT_EXHAUSTIVE))
"""Columns of lists of 0-based classes, a row an image."""


def looked_for(negative: Sequence[Sequence[int]], not_exhaustive: Sequence[Sequence[int]]) -> pa.RecordBatch:
    """Columns of these lists, a row an image; of any numbers, such as category ids that `relabelled` then replaces."""
    columns = [pa.array(lists, pa.large_list(pa.int64())) for lists in (negative, not_exhaustive)]
    return pa.RecordBatch.from_arrays(columns, names=[NEGATIVE, NOT_EXHAUSTIVE])


def relabelled(batch: pa.RecordBatch, labels: dict[int, int]) -> pa.RecordBatch:
    """`looked_for` with classes for category ids, as `FEDERATED_FIELDS`; a category that is no class is left out."""
    columns = [
        pa.array([sorted({labels[key] for key in keys if key in labels}) for keys in batch[name].to_pylist()], kind)
        for name, kind in ((field.name, field.type) for field in FEDERATED_FIELDS)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(FEDERATED_FIELDS))


def class_lists(images: NDArray[np.int64], classes: NDArray[np.int64], *, num_images: int) -> pa.LargeListArray:
    """A column of `FEDERATED_FIELDS` from pairs of an image's row and a class, sorted."""
    starts = np.searchsorted(images, np.arange(num_images + 1)).astype(np.int64)
    return pa.LargeListArray.from_arrays(pa.array(starts), pa.array(classes.astype(np.int32)))


@dataclass(frozen=True)
class Federated:
    """The classes of each image of a split; the arguments are columns of `FEDERATED_FIELDS`, without nulls."""

    _negative: pa.LargeListArray
    _not_exhaustive: pa.LargeListArray

    @classmethod
    def of(cls, index: pa.RecordBatch) -> Self | None:
        """Of the index of a split; None where it does not say, as with data all of whose classes were looked for."""
        if NEGATIVE not in index.schema.names or not index.num_rows or index[NEGATIVE].null_count:
            return None
        return cls(index[NEGATIVE], index[NOT_EXHAUSTIVE])

    def negative(self, index: int) -> NDArray[np.int32]:
        """The classes that an image has no object of, rising."""
        found: NDArray[np.int32] = self._negative[index].values.to_numpy()
        return found

    def not_exhaustive(self, index: int) -> NDArray[np.int32]:
        """The classes of which an image has objects that are not annotated, rising."""
        found: NDArray[np.int32] = self._not_exhaustive[index].values.to_numpy()
        return found

    def record(self, index: int) -> dict[str, list[int]]:
        """Of one image, as LVIS's JSON has it; a category_id is the class + 1."""
        return {
            "neg_category_ids": (self.negative(index) + 1).tolist(),
            "not_exhaustive_category_ids": (self.not_exhaustive(index) + 1).tolist(),
        }
