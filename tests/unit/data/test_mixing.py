"""Mosaic, mixup and copy-paste: what is seen is what is labelled, and the same whoever makes the batch."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from detcore.config.transforms import (
    Affine,
    CopyPaste,
    HorizontalFlip,
    MixUp,
    Mosaic,
    ResizeFixed,
    most_images,
)
from detcore.data.augmentation.mixing import hide
from detcore.data.augmentation.objects import Limits, PlacedObjects
from detcore.data.augmentation.room import fit_outlines
from detcore.data.outlines import fill_rings, outline_without_holes
from pipelines import (
    MOVES,
    SIZING,
    draws_few_sizes,
    inner_and_outer,
    outline_mask,
    painted,
    run,
    seen,
    seen_labels,
    unbordered,
)

LIMITS = Limits(min_size=0.0, min_visible=0.1)


def others(seed, number=5):
    """Pictures whose objects have labels of their own, of which the rest modulo 3 tells the colour."""
    random = np.random.default_rng(seed)
    return [painted(random, first_label=3 * (index + 1))[0] for index in range(number)]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(MOVES, max_size=1),
    SIZING,
    st.sampled_from([Mosaic(height=90, width=110), CopyPaste(probability=1.0)]),
    st.lists(MOVES, max_size=2),
    st.integers(0, 2**31),
)
def test_each_object_is_where_its_outline_is(before, sizing, mixing, after, seed):
    """Nothing of another colour lies on what is left of an object, and nothing coloured is no object's."""
    transforms = (*before, sizing, mixing, *after)
    assume(draws_few_sizes(transforms))
    picture, _ = painted(np.random.default_rng(seed))
    placement, objects = run(transforms, picture, seed=seed, others=others(seed), flip=(1, 0, 2))
    pixels, labels = seen(placement), seen_labels(placement)
    rest = unbordered(placement.content_size)
    for index, label in enumerate(objects.labels.tolist()):
        inner, outer = inner_and_outer(objects, index, placement.content_size)
        own, other = pixels[..., label % 3] > 135, np.delete(pixels, label % 3, axis=2).max(axis=2) > 135
        assert own[inner].all() and not other[inner].any()
        assert (labels[inner] == label % 3 + 1).all()
        rest &= outer
    assert not (pixels[rest].max(axis=-1) > 135).any()
    assert np.isin(labels[rest], (0, 255)).all()


@pytest.mark.parametrize("seed", range(6))
def test_a_mosaic_holds_four_images_that_meet_in_one_point(seed):
    resize = ResizeFixed(height=100, width=120)
    others_ = others(seed)
    placement, objects = run((resize, Mosaic(height=100, width=120)), others_[0], seed=seed, others=others_)
    corners = [layer.regions[0].vertices for layer in placement.layers]
    x, y = corners[0][2]
    assert 0.25 * 120 - 1 <= x <= 0.75 * 120 + 1 and 0.25 * 100 - 1 <= y <= 0.75 * 100 + 1
    assert [own[[2, 3, 1, 0][number]].tolist() for number, own in enumerate(corners)] == [[x, y]] * 4
    assert len({id(layer.image) for layer in placement.layers}) > 1 and len(objects) > 3
    alone, _ = run((resize, Mosaic(height=200, width=300)), others_[0], seed=seed, others=others_, mixes=False)
    assert alone.content_size == (200, 300)
    assert alone.geometry[:2, 2].tolist() == [90, 50]  # in the middle


def test_mixup_shows_both_images_by_their_weights():
    picture, (other,) = painted(np.random.default_rng(0), height=80, width=100)[0], others(1, 1)
    resize, flip = ResizeFixed(height=90, width=90), HorizontalFlip(probability=1.0)
    mixed, objects = run((resize, MixUp(probability=1.0, alpha=2.0), flip), picture, seed=3, others=[other])
    alone, own = run((resize, flip), picture, seed=3)
    partner, theirs = run((resize, flip), other, seed=3)
    opacity = mixed.layers[1].opacity
    assert 0.0 < opacity < 1.0
    expected = (1 - opacity) * seen(alone) + opacity * seen(partner)
    np.testing.assert_allclose(seen(mixed), expected, atol=1e-3)
    np.testing.assert_allclose(objects.boxes_xyxy, np.concatenate([own.boxes_xyxy, theirs.boxes_xyxy]), atol=1e-9)
    assert objects.labels.tolist() == [0, 1, 2, 3, 4, 5]
    opacities = [
        run((resize, MixUp(probability=1.0)), picture, seed=seed, others=[other])[0].layers[1].opacity
        for seed in range(40)
    ]
    assert min(opacities) > 0.3 and max(opacities) < 0.7 and len(set(opacities)) == 40  # Beta(32, 32): 0.5 ± 0.06


def test_without_mixing_a_pipeline_is_as_if_the_mixtures_were_not_there():
    picture = others(0, 1)[0]
    rest = (ResizeFixed(height=90, width=90), Affine(degrees=20))
    mixed = (rest[0], MixUp(probability=1.0), CopyPaste(probability=1.0), rest[1])
    placement, objects = run(mixed, picture, seed=1, others=others(1), mixes=False)
    assert len(placement.layers) == 1 and not placement.is_composed
    assert objects.labels.tolist() == run(rest, picture, seed=1)[1].labels.tolist()
    assert most_images(rest) == 1 and most_images(mixed) == 4 and most_images((*mixed, Mosaic(height=9, width=9))) == 16


def square(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def objects_of(*outlines, labels=None, keypoints=None):
    points = [np.concatenate(rings) for rings in outlines]
    return PlacedObjects.of(
        boxes_xyxy=np.array([[*own.min(axis=0), *own.max(axis=0)] for own in points]),
        labels=np.arange(len(outlines)) if labels is None else np.array(labels),
        polygons=outlines,
        keypoints=keypoints,
    )


def test_hidden_parts_of_objects_are_cut_off():
    """By hand: covered from x = 20 on; a hole of 10 x 10 in 40 x 40; a tenth and a bit less left; untouched."""
    objects = objects_of(
        [square(0, 0, 40, 20)], [square(100, 100, 140, 140)], [square(20, 30, 40, 40)], [square(20, 50, 41, 60)],
        [square(0, 70, 5, 75)], labels=[5, 6, 7, 8, 9],
        keypoints=np.array([[[10, 10, 2], [30, 10, 2], [30, 10, 1]]] * 5, float),
    )  # fmt: skip
    over = objects_of([square(20, -10, 200, 29), square(22, 30, 90, 41)], [square(110, 110, 120, 120)],
                      [square(22.0, 50, 90, 60)])  # fmt: skip
    left = hide(objects, over, LIMITS)
    assert left.labels.tolist() == [5, 6, 7, 9]  # 2 of 21 columns of label 8 are left
    assert left.boxes_xyxy.tolist() == [[0, 0, 20, 20], [100, 100, 140, 140], [20, 30, 22, 40], [0, 70, 5, 75]]
    areas = [outline_mask(left, index, (150, 150)).sum() for index in range(4)]
    assert areas == [400, 1500, 20, 25]
    assert left.keypoints[0].tolist() == [[10, 10, 2], [30, 10, 1], [30, 10, 1]]


@pytest.mark.parametrize("seed", range(20))
def test_outlines_without_holes_fill_to_the_very_mask(seed):
    random = np.random.default_rng(seed)
    mask = random.random((12, 15)) < random.uniform(0.3, 0.9)
    rings = outline_without_holes(mask)
    counts = np.array([len(ring) for ring in rings], np.int64)
    filled = fill_rings(np.concatenate([np.zeros((0, 2)), *rings]), counts, mask.shape)
    np.testing.assert_array_equal(filled, mask)


def test_outlines_get_simpler_until_there_is_room():
    circle = 50 + 30 * np.stack([np.cos(np.linspace(0, 6.2, 400)), np.sin(np.linspace(0, 6.2, 400))], axis=1)
    objects = objects_of([circle, square(0, 0, 1, 1)], [square(0, 0, 30, 30)], [square(5, 5, 7, 7)])
    assert fit_outlines(objects, rings=4, vertices=412) is objects
    fitted = fit_outlines(objects, rings=3, vertices=60)
    assert len(fitted.vertices) <= 60 and fitted.ring_objects.tolist() == [0, 1, 2]  # the smallest ring is gone
    before, after = (outline_mask(own, 0, (100, 100)) for own in (objects, fitted))
    assert (before ^ after).sum() < 0.05 * before.sum()
    assert len(fit_outlines(objects, rings=4, vertices=3).vertices) <= 3


def test_partners_are_drawn_from_the_whole_split_and_keyed():
    picture, split = painted(np.random.default_rng(9))[0], others(0, 4)
    transforms = (ResizeFixed(height=60, width=60), HorizontalFlip(), Mosaic(height=80, width=80))
    found = set()
    for seed in range(20):
        first, second = (run(transforms, picture, seed=seed, others=split, flip=(1, 0, 2))[0] for _ in range(2))
        assert all((a.geometry == b.geometry).all() for a, b in zip(first.layers, second.layers, strict=True))
        found |= {id(layer.image) for layer in first.layers[1:]}
        assert torch.equal(first.layers[0].image, picture.image)
    assert found == {id(other.image) for other in split}
