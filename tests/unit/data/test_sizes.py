"""The sizes that a pipeline can draw."""

import numpy as np
import pytest
from test_colours_and_steps import picture_of

from detcore.config.transforms import (
    Extent,
    FixedSizeCrop,
    HorizontalFlip,
    Mosaic,
    RandomCrop,
    ResizeFixed,
    ResizeScale,
    ResizeShortestEdge,
    Rotate,
)
from detcore.data.augmentation.sizes import content_sizes, num_size_choices, planned_choices
from detcore.data.buckets import shrunk_to_fit
from pipelines import run


def drawn(transform, size, number=400):
    """(k, 2) sizes of an image, each drawn choice once."""
    choices = np.unique(np.random.default_rng(0).integers(num_size_choices([transform]), size=number))
    return content_sizes(np.tile(size, (len(choices), 1)), [transform], choices)


def test_resized_sizes():
    """By hand: 480x640 to 800 is 640 * 800 / 480 = 1066.67; 375x1242 to 800 would be 2650 wide, so 1333 and 402.47."""
    sizes = np.array([[480, 640], [640, 480], [375, 1242], [500, 500], [1, 5000]])
    resize = (ResizeShortestEdge(sizes=(800,), max_size=1333),)
    expected = [[800, 1067], [1067, 800], [402, 1333], [800, 800], [1, 1333]]
    assert content_sizes(sizes, resize, np.zeros(5, int)).tolist() == expected


def test_a_range_of_sizes_has_every_whole_number():
    sizes = drawn(ResizeShortestEdge(sizes=(40, 60), max_size=1000, sample="range"), (20, 30))
    assert sorted(set(sizes[:, 0].tolist())) == list(range(40, 61))


def test_choices_run_over_all_combinations_of_sizes():
    resizes = (
        ResizeShortestEdge(sizes=(40, 50), max_size=1000),
        HorizontalFlip(),
        ResizeShortestEdge(sizes=(60, 70, 80), max_size=1000),
        ResizeFixed(height=90, width=100),
    )
    assert num_size_choices(resizes) == 6
    sizes = content_sizes(np.full((6, 2), 20), resizes[:3], np.arange(6))
    assert sorted(sizes[:, 0].tolist()) == [60, 60, 70, 70, 80, 80]
    picture = picture_of(np.zeros((20, 20, 3), np.uint8))
    found = [run(resizes[:3], picture, choice=choice, flip=(0,))[0].content_size[0] for choice in range(6)]
    assert found == sizes[:, 0].tolist()
    assert content_sizes(np.full((6, 2), 20), resizes, np.arange(6)).tolist() == [[90, 100]] * 6


def test_scale_jitter_fits_into_the_scaled_target():
    """Detectron2's ResizeScale: of 480 x 640 into 1024 x 1024 at 0.1 to 2.0, the width is 102.4 to 2048."""
    sizes = drawn(ResizeScale(height=1024, width=1024, scale=(0.1, 2.0)), (480, 640))
    assert sizes[:, 1].min() == 102 and sizes[:, 1].max() == 2048
    assert np.abs(sizes[:, 0] - sizes[:, 1] * 0.75).max() <= 1
    assert (drawn(FixedSizeCrop(height=30, width=50), (480, 640)) == [30, 50]).all()
    assert (drawn(Mosaic(height=30, width=50), (480, 640)) == [30, 50]).all()


def test_crops_are_as_large_as_they_say():
    size = (100, 200)
    assert drawn(RandomCrop(mode="relative", size=(0.5, 0.25)), size).tolist() == [[50, 50]]
    assert drawn(RandomCrop(mode="absolute", size=(60, 300)), size).tolist() == [[60, 200]]
    share = drawn(RandomCrop(mode="relative_range", size=(0.4, 0.7)), size)
    assert share.min(axis=0).tolist() == [40, 140] and share.max(axis=0).tolist() == [100, 200]
    length = drawn(RandomCrop(mode="absolute_range", size=(30, 150)), size, number=2000)
    assert length.min(axis=0).tolist() == [30, 30] and length.max(axis=0).tolist() == [100, 150]
    sometimes = drawn(RandomCrop(mode="relative", size=(0.5, 0.25), probability=0.25), size, number=5000)
    assert 0.2 < (sometimes[:, 0] == 50).mean() < 0.3


def test_turned_images_are_held_whole():
    """By hand: 30 x 40 turned by 90 degrees is 40 x 30; by 45 degrees, both sides are 70 / sqrt 2 = 49.5."""
    rotate = Rotate(degrees=(0.0, 45.0, 90.0), sample="choice")
    assert drawn(rotate, (30, 40)).tolist() == [[30, 40], [49, 49], [40, 30]]
    assert drawn(rotate.model_copy(update={"expand": False}), (30, 40)).tolist() == [[30, 40]]
    extents = drawn(Extent(scale=(0.5, 2.0)), (30, 40))
    assert extents.min(axis=0).tolist() == [15, 20] and extents.max(axis=0).tolist() == [60, 80]


def test_buckets_are_planned_for_all_choices_or_for_the_greatest_and_some():
    assert planned_choices(6).tolist() == list(range(6))
    many = planned_choices(10**9)
    assert len(many) == 32 and many[-1] == 10**9 - 1


def test_a_size_that_no_bucket_holds_is_shrunk_to_the_best_one():
    sizes = np.array([[60, 60], [100, 130], [130, 100], [64, 96]])
    assert shrunk_to_fit(sizes, ((64, 128), (96, 96))).tolist() == [[60, 60], [73, 96], [96, 73], [64, 96]]


def test_too_many_drawn_sizes_are_an_error():
    crops = [RandomCrop(size=(0.5, 0.5))] * 4
    with pytest.raises(ValueError, match="too many transforms that draw a size"):
        num_size_choices(crops)
