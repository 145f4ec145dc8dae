"""Bucket shapes: few, divisible, covering everything, and near the best there are."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.config.transforms import ResizeShortestEdge
from detcore.data.augmentation.sizes import content_sizes, num_size_choices
from detcore.data.buckets import assign_buckets, choose_buckets

size_lists = st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), min_size=1, max_size=40)


def padded_pixels(sizes, buckets):
    shapes = np.array(buckets)
    return int(shapes[assign_buckets(sizes, buckets)].prod(axis=1).sum())


@settings(max_examples=60, deadline=None)
@given(size_lists, st.integers(1, 6), st.sampled_from([1, 32]))
def test_buckets_are_few_divisible_and_hold_everything(sizes, max_buckets, divisor):
    sizes = np.array(sizes)
    buckets = choose_buckets(sizes, max_buckets=max_buckets, divisor=divisor)
    assert 1 <= len(set(buckets)) == len(buckets) <= max_buckets
    assert all(height % divisor == 0 and width % divisor == 0 for height, width in buckets)
    own = assign_buckets(sizes, buckets)
    assert (sizes <= np.array(buckets)[own]).all()
    # None is larger than it must be for what it holds, and each holds something.
    for index, bucket in enumerate(buckets):
        assert bucket == tuple((-(-sizes[own == index].max(axis=0) // divisor) * divisor).tolist())


@settings(max_examples=30, deadline=None)
@given(size_lists, st.randoms(use_true_random=False))
def test_buckets_do_not_depend_on_the_order_of_the_images(sizes, random):
    shuffled = random.sample(sizes, len(sizes))
    first, second = (choose_buckets(np.array(s), max_buckets=4, divisor=32) for s in (sizes, shuffled))
    assert first == second


def test_buckets_are_near_the_best_possible():
    """Against all sets of three shapes, on 30 small problems."""
    ratios = []
    for seed in range(30):
        sizes = np.random.default_rng(seed).integers(1, 7, (9, 2)) * 32
        edges = [np.unique(sizes[:, axis]).tolist() for axis in (0, 1)]
        best = min(
            padded_pixels(sizes, chosen)
            for chosen in itertools.combinations(itertools.product(*edges), 3)
            if (sizes[:, None] <= np.array(chosen)).all(axis=-1).any(axis=1).all()
        )
        ratios.append(padded_pixels(sizes, choose_buckets(sizes, max_buckets=3, divisor=32)) / best)
    assert max(ratios) <= 1.25
    assert np.mean(ratios) <= 1.02


def test_padding_on_real_sizes(shared: Path):
    """COCO's sizes at 640 to 800, against the least padding there is: an integer program's, solved to its bound.

    (A binary a candidate shape, at most n of them 1, and each size given to one of those: scipy.optimize.milp.)
    """
    best = {4: 0.20465, 6: 0.14916, 8: 0.11060, 10: 0.08952}
    parts = [
        json.loads((shared / f"data/coco_mini/annotations/instances_{p}.json").read_text()) for p in ("train", "val")
    ]
    raw = np.array([(image["height"], image["width"]) for part in parts for image in part["images"]])
    resize = (ResizeShortestEdge(sizes=(640, 672, 704, 736, 768, 800), max_size=1333),)
    sizes = np.concatenate(
        [content_sizes(raw, resize, np.full(len(raw), choice)) for choice in range(num_size_choices(resize))]
    )
    real = sizes.prod(axis=1).sum()
    waste = {n: padded_pixels(sizes, choose_buckets(sizes, max_buckets=n, divisor=32)) / real - 1 for n in best}
    for number, least in best.items():
        assert least - 1e-5 < waste[number] < least + 1e-3


def test_a_bucket_must_pay_for_its_last_batch():
    sizes = np.array([[64, 64]] * 20 + [[64, 96]] * 20)
    assert len(choose_buckets(sizes, max_buckets=4, divisor=32)) == 2
    # 20 images save 20 x 64 x 32 pixels, eight empty rows cost 8 x 64 x 64.
    assert choose_buckets(sizes, max_buckets=4, divisor=32, spare_rows=8) == ((64, 96), (64, 64))
    assert choose_buckets(sizes, max_buckets=4, divisor=32, spare_rows=12) == ((64, 96),)


def test_a_size_that_fits_nowhere_is_named():
    with pytest.raises(ValueError, match=r"\(70, 10\)"):
        assign_buckets(np.array([[10, 10], [70, 10]]), ((64, 64),))
