"""Run lengths and contours against pycocotools, the reference for both."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest

from detcore.data.outlines import decode_mask, decode_runs, ring_area, simplify_ring, trace_outline


def random_masks(number):
    rng = np.random.default_rng(0)
    for _ in range(number):
        height, width = rng.integers(1, 40, 2)
        yield rng.random((height, width)) < rng.random()


def fill(rings, height, width):
    runs = coco_mask.frPyObjects([ring.reshape(-1).tolist() for ring in rings], int(height), int(width))
    return coco_mask.decode(coco_mask.merge(runs)).astype(bool)


def test_compressed_run_lengths_decode_as_pycocotools_decodes_them():
    for mask in random_masks(100):
        counts = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        height, width = mask.shape
        assert (decode_mask(decode_runs(counts), height=height, width=width) == mask).all()


@pytest.mark.parametrize(
    ("counts", "why"), [("a b", "character ' '"), ("52203\x7f", "character"), ("0_", "end within")]
)
def test_run_lengths_outside_the_code_are_refused(counts, why):
    with pytest.raises(ValueError, match=why):
        decode_runs(counts)


@pytest.mark.parametrize("runs", [[3, 2], [-1, 13], []])
def test_runs_that_do_not_fill_the_mask_are_refused(runs):
    with pytest.raises(ValueError, match="in a mask of 3 x 4"):
        decode_mask(np.array(runs, np.int64), height=3, width=4)


def test_traced_rings_fill_back_to_the_mask_without_holes():
    traced = 0
    for mask in random_masks(200):
        rings = trace_outline(mask)
        if not mask.any():
            assert rings == []
            continue
        filled = fill(rings, *mask.shape)
        # A hole is background that 4-connected steps through background do not lead out of.
        outside = np.pad(~mask, 1, constant_values=True)
        reached = np.zeros_like(outside)
        reached[0, 0] = True
        while True:
            grown = reached.copy()
            grown[1:] |= reached[:-1]
            grown[:-1] |= reached[1:]
            grown[:, 1:] |= reached[:, :-1]
            grown[:, :-1] |= reached[:, 1:]
            grown &= outside
            if (grown == reached).all():
                break
            reached = grown
        assert not (filled & reached[1:-1, 1:-1]).any()
        assert not (mask & ~filled).any()
        traced += 1
    assert traced > 150


def test_rings_have_a_point_only_where_they_turn():
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    (ring,) = trace_outline(mask)
    assert sorted(ring.tolist()) == [[2, 1], [2, 4], [7, 1], [7, 4]]
    assert ring_area(ring) == 15


def test_regions_that_touch_by_a_corner_are_rings_of_their_own():
    assert len(trace_outline(np.eye(3, dtype=bool))) == 3


def test_simplified_ring_stays_within_the_tolerance():
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    circle = 50 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    ring = simplify_ring(circle, tolerance=0.5)
    assert 8 < len(ring) < 60
    # A chord between kept points of a circle is at most the tolerance from it, so its middle is no nearer the centre.
    middles = (ring + np.roll(ring, -1, axis=0)) / 2
    assert np.linalg.norm(middles, axis=1).min() > 49.4
