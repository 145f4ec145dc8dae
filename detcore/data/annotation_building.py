"""Collects the objects of a split, one after the other, into the columns of `annotations.SCHEMA`."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detcore.data.annotations import SCHEMA


class _Lists:
    """Collects a column of lists of numbers, or of nothing."""

    def __init__(self) -> None:
        self._values, self._starts, self._missing = array("d"), array("q", [0]), bytearray()

    def add(self, numbers: Sequence[float] | None) -> None:
        self._values.extend(numbers or ())
        self._starts.append(len(self._values))
        self._missing.append(numbers is None)

    def column(self) -> pa.LargeListArray:
        missing = pa.array(np.frombuffer(bytes(self._missing), np.bool_))
        starts, values = np.array(self._starts, np.int64), np.array(self._values, np.float64)
        return pa.LargeListArray.from_arrays(pa.array(starts), pa.array(values), mask=missing)


class AnnotationBuilder:
    """Collects objects into columns, one `add` each."""

    def __init__(self) -> None:
        self._sample, self._ids, self._labels = array("i"), array("q"), array("i")
        self._boxes, self._areas, self._crowd = array("d"), array("d"), bytearray()
        self._values, self._ring_starts, self._object_starts = array("d"), array("q", [0]), array("q", [0])
        self._counts: list[str | None] = []
        self._runs: list[list[int] | None] = []
        self._sizes: list[list[int] | None] = []
        self._keypoints, self._rotated = _Lists(), _Lists()

    def __len__(self) -> int:
        return len(self._sample)

    def add(
        self,
        *,
        sample: int,
        annotation_id: int,
        label: int,
        bbox_xywh: Sequence[float],
        area: float,
        crowd: bool = False,
        segmentation: Any = None,
        keypoints: Sequence[float] | None = None,
        bbox_rotated: Sequence[float] | None = None,
    ) -> None:
        """Appends one object; `segmentation` as COCO has it: rings, a run-length mask, or None.

        Raises:
            ValueError: a box that is not four numbers, or a segmentation or keypoints in none of COCO's forms.
        """
        if len(bbox_xywh) != 4:
            hint = "; for rotated boxes set data.format to coco_rotated" if len(bbox_xywh) == 5 else ""
            raise ValueError(f"bbox {list(bbox_xywh)!r} is not x, y, width, height{hint}")
        if keypoints is not None and len(keypoints) % 3:
            raise ValueError(f"keypoints are {len(keypoints)} numbers, not x, y, visibility of each")
        rings, counts, runs, size = _segmentation(segmentation)
        self._boxes.extend(bbox_xywh)
        self._sample.append(sample)
        self._ids.append(annotation_id)
        self._labels.append(label)
        self._areas.append(area)
        self._crowd.append(crowd)
        for ring in rings:
            self._values.extend(ring)
            self._ring_starts.append(len(self._values))
        self._object_starts.append(len(self._ring_starts) - 1)
        self._counts.append(counts)
        self._runs.append(runs)
        self._sizes.append(size)
        self._keypoints.add(keypoints)
        self._rotated.add(bbox_rotated)

    def batch(self) -> pa.RecordBatch:
        """The columns so far, as `SCHEMA`."""
        boxes = np.frombuffer(self._boxes, np.float64) if self._boxes else np.zeros(0)
        columns = [
            pa.array(np.array(self._sample, np.int32)),
            pa.array(np.array(self._ids, np.int64)),
            pa.array(np.array(self._labels, np.int32)),
            pa.FixedSizeListArray.from_arrays(pa.array(boxes), 4),
            pa.array(np.array(self._areas, np.float64)),
            pa.array(np.frombuffer(bytes(self._crowd), np.bool_)),
            rings_array(
                np.array(self._values, np.float64),
                np.array(self._ring_starts, np.int64),
                np.array(self._object_starts, np.int64),
            ),
            pa.array(self._counts, pa.large_string()),
            pa.array(self._runs, pa.large_list(pa.int64())),
            pa.array(self._sizes, pa.list_(pa.int32(), 2)),
            self._keypoints.column(),
            self._rotated.column(),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def _segmentation(value: Any) -> tuple[list[Any], str | None, list[int] | None, list[int] | None]:
    """COCO's three forms as (rings, compressed counts, runs, size)."""
    if not value:
        return [], None, None, None
    if isinstance(value, dict) and {"counts", "size"} <= value.keys() and len(value["size"]) == 2:
        counts = value["counts"]
        if isinstance(counts, bytes):
            counts = counts.decode("ascii")
        if isinstance(counts, str):
            return [], counts, None, list(value["size"])
        return [], None, list(counts), list(value["size"])
    if isinstance(value, list) and all(isinstance(ring, list) and len(ring) % 2 == 0 for ring in value):
        return value, None, None, None
    raise ValueError(f"segmentation {str(value)[:60]} is neither rings of x, y pairs nor a mask with counts and size")


def rings_array(
    values: NDArray[np.float64], ring_starts: NDArray[np.int64], object_starts: NDArray[np.int64]
) -> pa.LargeListArray:
    """Flat coordinates with the start of each ring in them, and of each object in the rings, as an Arrow column."""
    rings = pa.LargeListArray.from_arrays(pa.array(ring_starts), pa.array(values))
    return pa.LargeListArray.from_arrays(pa.array(object_starts), rings)
