"""Arrow columns of objects: as numpy views, and in half the space, bit for bit.

So eight ranks that map one `annotations.arrow` hold it once.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

STEPS_PER_PIXEL = 100
"""COCO writes coordinates with two decimals."""


def view(column: pa.Array) -> NDArray[Any]:
    """A column of numbers without nulls, not copied; read-only.

    Not pyarrow's to_numpy, which imports pandas where that is installed: 30 MB a process and a third of a second.
    """
    return np.from_dlpack(column)


def booleans(column: pa.BooleanArray) -> NDArray[np.bool_]:
    """A column of booleans without nulls, which Arrow keeps as bits."""
    first, last = column.offset, column.offset + len(column)
    octets = np.frombuffer(column.buffers()[1] or b"", np.uint8)
    return np.unpackbits(octets, count=last, bitorder="little")[first:].view(np.bool_)


def compact(objects: pa.RecordBatch) -> pa.RecordBatch:
    """Coordinates of polygons as int32 hundredths of a pixel, and run lengths as int32, where that loses nothing.

    A number with two decimals is the float64 nearest to k / 100, which is what dividing k by 100 gives: the very same
    bits. One coordinate of more decimals, and the column stays as it is.

    Args:
        objects: a batch of `annotations.SCHEMA`.
    """
    polygons = objects["polygons"]
    if (steps := _hundredths(view(polygons.values.values))) is not None:
        rings = pa.LargeListArray.from_arrays(polygons.values.offsets, pa.array(steps))
        objects = _replaced(objects, "polygons", pa.LargeListArray.from_arrays(polygons.offsets, rings))
    try:
        return _replaced(objects, "rle_runs", objects["rle_runs"].cast(pa.large_list(pa.int32())))
    except pa.ArrowInvalid:  # a run of two thousand million pixels
        return objects


def pixels(values: NDArray[np.float64] | NDArray[np.int32]) -> NDArray[np.float64]:
    """Coordinates as `compact` may have stored them, in pixels."""
    return values / STEPS_PER_PIXEL if values.dtype == np.int32 else values.astype(np.float64, copy=False)


def _hundredths(values: NDArray[np.float64]) -> NDArray[np.int32] | None:
    """The int32 numbers that `pixels` makes exactly these of, or None."""
    steps = np.rint(values * STEPS_PER_PIXEL)
    if not (np.abs(steps) <= np.iinfo(np.int32).max).all():
        return None
    whole = steps.astype(np.int32)
    # As bits: 0.0 equals -0.0.
    return whole if np.array_equal(pixels(whole).view(np.int64), values.view(np.int64)) else None


def _replaced(objects: pa.RecordBatch, name: str, column: pa.Array) -> pa.RecordBatch:
    return objects.set_column(objects.schema.get_field_index(name), name, column)
