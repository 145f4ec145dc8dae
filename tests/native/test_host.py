"""The host module against the references in Python, and against pycocotools where that draws the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from detcore.data.outlines import decode_runs, decode_runs_reference, trace_outline, trace_outline_reference
from detcore.data.rings import clip_rings, clip_rings_reference, flatten_rings, flatten_rings_reference
from detcore.ops import native


@pytest.fixture(scope="module", autouse=True)
def host_module() -> None:
    if native.host() is None:
        pytest.skip("the host module is not built (no compiler, or DETCORE_NATIVE=off)", allow_module_level=True)


def masks(number: int) -> list[NDArray[np.bool_]]:
    rng = np.random.default_rng(0)
    shapes = rng.integers(1, 40, (number, 2))
    return [rng.random((int(h), int(w))) < rng.random() for h, w in shapes]


def test_traced_outlines_are_the_references_point_for_point() -> None:
    for mask in [
        *masks(200),
        np.ones((5, 6), bool),
        np.zeros((5, 6), bool),
        np.zeros((0, 3), bool),
        np.eye(9, dtype=bool),
    ]:
        for own in (mask, mask.T, mask[::2]):
            rings, wanted = trace_outline(own), trace_outline_reference(own)
            assert len(rings) == len(wanted)
            for ring, want in zip(rings, wanted, strict=True):
                assert ring.dtype == np.float64
                np.testing.assert_array_equal(ring, want)


def test_decoded_runs_are_the_references() -> None:
    for mask in masks(200):
        counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        runs = decode_runs(counts)
        assert runs.dtype == np.int64
        np.testing.assert_array_equal(runs, decode_runs_reference(counts))
    assert native.host().decode_runs("0_") is None  # type: ignore[union-attr]
    assert len(decode_runs("")) == 0


def test_flat_rings_are_the_references() -> None:
    square = np.array([[0.0, 0], [4, 0], [4, 4]])
    objects = [[square, [1, 2, 3.5, 4, 5, 6, 7, 8]], [], [square.astype(np.float32)[::-1]]]
    flat, wanted = flatten_rings(objects), flatten_rings_reference(objects)
    for array, want in zip(flat, wanted, strict=True):
        assert array.dtype == want.dtype
        np.testing.assert_array_equal(array, want)
    assert flat[1].tolist() == [3, 4, 3] and flat[2].tolist() == [0, 0, 2]
    assert [array.shape for array in flatten_rings([])] == [(0, 2), (0,), (0,)]


@pytest.mark.parametrize("ring", [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, float("nan")], []])
def test_rings_that_enclose_nothing_are_refused_by_number(ring: list[float]) -> None:
    square = [0, 0, 1, 0, 1, 1]
    for flatten in (flatten_rings, flatten_rings_reference):
        with pytest.raises(ValueError, match=f"object 1, ring 1: {len(ring)} numbers"):
            flatten([[square], [square, ring]])


coordinates = st.one_of(st.integers(-3, 13).map(float), st.floats(-30, 30))
rings = st.lists(st.tuples(coordinates, coordinates), min_size=0, max_size=12)


@settings(deadline=None, max_examples=200)
@given(st.lists(rings, max_size=3))
def test_clipped_rings_are_the_references(own: list[list[tuple[float, float]]]) -> None:
    vertices = np.concatenate([np.zeros((0, 2)), *[np.array(ring, float).reshape(-1, 2) for ring in own]])
    counts = np.array([len(ring) for ring in own], np.int64)
    rectangles = np.tile([0.0, 1.0, 10.0, 9.0], (len(own), 1))
    got, want = clip_rings(vertices, counts, rectangles), clip_rings_reference(vertices, counts, rectangles)
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])
    inside = (got[0] >= rectangles[0, :2] - 1e-9) & (got[0] <= rectangles[0, 2:] + 1e-9) if own else np.ones(0)
    assert inside.all()


def test_a_clipped_concave_ring_covers_what_it_covered_inside() -> None:
    # A comb whose teeth reach across the rectangle: the pieces hang together by lines that draw no pixel.
    comb = np.array(
        [[0, 0], [12, 0], [12, 9], [10, 9], [10, 3], [8, 3], [8, 9], [4, 9], [4, 3], [2, 3], [2, 9], [0, 9]], float
    )
    clipped, counts = clip_rings(comb, np.array([12]), np.array([[1.0, 5, 11, 8]]))
    assert counts.tolist() == [len(clipped)]
    drawn = [coco_mask.decode(coco_mask.frPyObjects([r.reshape(-1).tolist()], 12, 12))[..., 0] for r in (comb, clipped)]
    want = np.zeros((12, 12), np.uint8)
    want[5:8, 1:11] = drawn[0][5:8, 1:11]
    np.testing.assert_array_equal(drawn[1], want)
    assert 0 < want.sum() < 30


def test_clipping_refuses_arrays_that_do_not_agree() -> None:
    with pytest.raises(ValueError, match="rings of 4 points"):
        clip_rings(np.zeros((3, 2)), np.array([4]), np.zeros((1, 4)))
    outside = clip_rings(np.array([[20.0, 20], [21, 20], [21, 21]]), np.array([3]), np.array([[0.0, 0, 9, 9]]))
    assert outside[0].shape == (0, 2) and outside[1].tolist() == [0]


def counts_of(mask: NDArray[np.bool_]) -> bytes:
    return bytes(coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"])


def packed(mask: NDArray[np.bool_], window: tuple[int, int, int, int]) -> NDArray[np.uint64]:
    x0, y0, x1, y1 = window
    columns = mask[y0:y1, x0:x1].T
    padded = np.pad(columns, ((0, 0), (0, -columns.shape[1] % 64)))
    return np.packbits(padded, axis=1, bitorder="little").reshape(-1).view(np.uint64)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_run_lengths_of_packed_bits_equal_pycocotools(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 140)), data.draw(st.integers(1, 12))
    x0, y0 = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    window = (x0, y0, data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height)))
    share = data.draw(st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]))
    mask = np.zeros((height, width), bool)
    own = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).random((height, width)) < share
    mask[y0 : window[3], x0 : window[2]] = own[y0 : window[3], x0 : window[2]]
    words = packed(mask, window)
    (counts,) = native.host().run_lengths(words, np.zeros(1, np.int64), np.array([window]), height, width)  # type: ignore[union-attr]
    assert counts == counts_of(mask)


def test_windows_that_leave_the_words_are_refused() -> None:
    host, zero = native.host(), np.zeros(1, np.int64)
    assert host is not None
    for window, start in (
        ((0, 0, 3, 4), 0),
        ((0, 0, 2, 5), 0),
        ((-1, 0, 1, 4), 0),
        ((0, 0, 2, 4), 1),
        ((0, 0, 2, 4), -1),
    ):
        with pytest.raises(ValueError, match="run_lengths"):
            host.run_lengths(np.zeros(2, np.uint64), zero + start, np.array([window]), 4, 2)
