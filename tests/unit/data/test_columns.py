"""Compact columns give back the very bits that went in, and what has no room in them stays as it was."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.data.annotation_building import AnnotationBuilder
from detcore.data.annotations import Annotations
from detcore.data.columns import booleans, compact, view


def objects(rings, *, counts=None):
    """One image with one object a list of rings, and a last one with a run-length mask if counts are given."""
    builder = AnnotationBuilder()
    segmentations = [*rings, *([{"counts": counts, "size": [4, 5]}] if counts else [])]
    for number, segmentation in enumerate(segmentations):
        box = (1.25, 2.5, 3.0, 4.0)
        builder.add(sample=0, annotation_id=number, label=0, bbox_xywh=box, area=1.0, segmentation=segmentation)
    return builder.batch()


def coordinates(batch):
    return view(batch["polygons"].values.values)


def bits(rings):
    return [[np.asarray(ring, np.float64).tobytes() for ring in of_object] for of_object in rings]


two_decimals = st.integers(-(10**7), 10**7).map(lambda number: float(f"{number / 100:.2f}"))
ring_lists = st.lists(
    st.lists(st.lists(two_decimals, min_size=6, max_size=12).map(lambda ring: ring[: len(ring) // 2 * 2]), max_size=3),
    min_size=1,
    max_size=4,
)


@settings(max_examples=80, deadline=None)
@given(ring_lists)
def test_numbers_with_two_decimals_take_half_the_space(rings):
    """As COCO's JSON has them: read from text, they are the float64 nearest to the decimal number."""
    plain = objects(rings)
    small = compact(plain)
    has_minus_zero = any(math.copysign(1, c) < 0 and c == 0 for rings_of in rings for ring in rings_of for c in ring)
    assert coordinates(small).dtype == (np.float64 if has_minus_zero else np.int32)
    read = Annotations(small, num_samples=1)
    assert bits(read.rings(slice(0, len(rings)))) == bits(rings)
    for row in range(len(rings)):
        assert read.record(row, image_id=1) == Annotations(plain, num_samples=1).record(row, image_id=1)
        last = slice(row, row + 1)
        assert bits(read.rings(last)) == bits(rings[last])


@pytest.mark.parametrize("coordinate", [0.005, 1 / 3, -0.0, 3e7, 1e300, math.nan, math.inf, 0.1 + 0.2])
def test_other_numbers_stay_float64(coordinate):
    plain = objects([[[1.0, 2.0, 3.0, 4.0, 5.0, coordinate]]])
    small = compact(plain)
    assert coordinates(small).tobytes() == coordinates(plain).tobytes()
    assert coordinates(small).dtype == np.float64


def test_objects_are_the_same_from_both(tmp_path):
    rings = [[[1.0, 2.0, 3.5, 4.25, 5.01, 6.99]], [[0.0, 0.0, 9.0, 0.0, 9.0, 9.0], [1.0, 1.0, 2.0, 2.0]], []]
    plain = objects(rings, counts=[3, 5, 12])
    small = compact(plain)
    assert small["rle_runs"].type == pa.large_list(pa.int32())
    assert small.nbytes < plain.nbytes
    found = [
        Annotations(batch, num_samples=1).objects(0, height=4, width=5) for batch in (plain, small)
    ]  # the ring of two points encloses nothing
    for of_batch in found:
        assert [[ring.tolist() for ring in rings] for rings in of_batch.polygons] == [
            [[[1.0, 2.0], [3.5, 4.25], [5.01, 6.99]]],
            [[[0.0, 0.0], [9.0, 0.0], [9.0, 9.0]]],
            [],
            [],
        ]
    record = Annotations(small, num_samples=1).record(3, image_id=7)
    assert record["segmentation"] == {"size": [4, 5], "counts": [3, 5, 12]}


def test_a_run_beyond_int32_stays():
    plain = objects([], counts=[2**31, 5])
    assert compact(plain)["rle_runs"].to_pylist() == [[2**31, 5]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(0, 9))
def test_booleans_are_unpacked_from_any_place(values, first):
    assert booleans(pa.array(values, pa.bool_())[first:]).tolist() == values[first:]


def test_a_view_is_no_copy_and_cannot_be_written():
    column = pa.array(np.arange(5))
    seen = view(column)
    assert seen.__array_interface__["data"][0] == column.buffers()[1].address
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1
