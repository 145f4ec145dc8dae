"""Pixels, boxes, outlines, keypoints and maps of classes go through the same matrices."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.config.transforms import (
    Affine,
    HorizontalFlip,
    MinIoUCrop,
    RandomCrop,
    ResizeFixed,
    ResizeShortestEdge,
    Rotate,
    VerticalFlip,
)
from detcore.data.augmentation.canvas import Picture
from detcore.data.augmentation.objects import Limits, PlacedObjects, cut, moved
from pipelines import inner_and_outer, painted, picture_of, pipelines, planned_size, run, seen, seen_labels, unbordered


@settings(max_examples=150, deadline=None, derandomize=True)
@given(pipelines(), st.integers(0, 2**31))
def test_pixels_and_geometry_move_together(transforms, seed):
    """Each painted object is where its outline, box, keypoints and class are; nothing else is of its colour."""
    picture, _ = painted(np.random.default_rng(seed))
    placement, objects = run(transforms, picture, seed=seed, flip=(1, 0, 2))
    size, pixels, labels = placement.content_size, seen(placement), seen_labels(placement)
    rest = unbordered(size)
    for index, label in enumerate(objects.labels.tolist()):
        inner, outer = inner_and_outer(objects, index, size)
        own, other = pixels[..., label % 3] > 135, np.delete(pixels, label % 3, axis=2).max(axis=2) > 135
        assert own[inner].all() and not other[inner].any()
        assert (labels[inner] == label + 1).all()
        rest &= outer
        check_boxes(objects, index, size)
        check_keypoints(objects, index, outer)
    assert not (pixels[rest].max(axis=-1) > 135).any()
    assert np.isin(labels[rest], (0, 255)).all()


def check_boxes(objects, index, size):
    """A box is the extent of the part of its convex outline that is in the image.

    That part's corners lie on the outline, of which 1,000 points a side are looked at, or are corners of the image.
    """
    (ring,) = objects.vertices.reshape(-1, 4, 2)[objects.ring_objects == index]
    ahead = np.roll(ring, -1, axis=0)
    along = (ring[:, None] + np.linspace(0, 1, 1000)[:, None] * (ahead - ring)[:, None]).reshape(-1, 2)
    corners = np.array([[0, 0], [size[1], 0], [size[1], size[0]], [0, size[0]]], float)
    away, side = corners[:, None] - ring, ahead - ring
    sense = side[:, 0] * away[..., 1] - side[:, 1] * away[..., 0]
    held = corners[(sense >= 0).all(axis=1) | (sense <= 0).all(axis=1)]
    part = np.concatenate([along[((along >= 0) & (along <= size[::-1])).all(axis=1)], held])
    np.testing.assert_allclose(objects.boxes_xyxy[index], [*part.min(axis=0), *part.max(axis=0)], atol=0.5)


def check_keypoints(objects, index, outer):
    """The visible ones lie on the object."""
    points = objects.keypoints[index]
    for x, y, visibility in points.tolist():
        assert visibility in (0, 2)
        assert (x, y) == (0, 0) if visibility == 0 else not outer[int(y), int(x)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(pipelines(), st.integers(0, 2**31))
def test_the_planned_size_is_the_size(transforms, seed):
    if any(isinstance(transform, MinIoUCrop) for transform in transforms):
        return
    picture, _ = painted(np.random.default_rng(seed))
    placement, _ = run(transforms, picture, seed=seed)
    assert placement.content_size == planned_size(transforms, picture, seed=seed)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(pipelines(), st.integers(0, 2**31))
def test_matrices_invert(transforms, seed):
    """What moved there moves back; a mirrored image twice mirrored has its left keypoints left."""
    picture, _ = painted(np.random.default_rng(seed))
    placement, _ = run(transforms, picture, seed=seed)
    there = moved(picture.objects, placement.geometry, (1, 0, 2))
    back = moved(there, np.linalg.inv(placement.geometry), (1, 0, 2))
    np.testing.assert_allclose(back.vertices, picture.objects.vertices, atol=1e-9)
    np.testing.assert_allclose(back.keypoints, picture.objects.keypoints, atol=1e-9)
    np.testing.assert_allclose(back.boxes_xyxy, picture.objects.boxes_xyxy, atol=1e-9)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from([HorizontalFlip(probability=1.0), VerticalFlip(probability=1.0), Rotate(degrees=(-180, 180))]),
    st.integers(0, 2**31),
)
def test_rotated_boxes_keep_to_their_objects(transform, seed):
    """Under mirrors, turns and one scale for both sides, a rotated rectangle's corners are those of its outline."""
    _, picture = painted(np.random.default_rng(seed))
    _, objects = run((ResizeShortestEdge(sizes=(100,), max_size=900), transform), picture, seed=seed)
    assert len(objects) == 3
    for (x, y, w, h, angle), ring in zip(objects.boxes_xywha, objects.vertices.reshape(3, 4, 2), strict=True):
        np.testing.assert_allclose(ring.mean(axis=0), [x, y])
        cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        along = np.abs((ring - [x, y]) @ [cos, -sin]), np.abs((ring - [x, y]) @ [sin, cos])
        scale = 100 / min(picture.size)
        rounded = 0.02  # the longer side is a whole number of pixels
        np.testing.assert_allclose(along[0], w / 2, rtol=rounded)
        np.testing.assert_allclose(along[1], h / 2, rtol=rounded)
        assert w * h == pytest.approx(picture.objects.boxes_xywha[:, 2:4].prod(axis=1)[0] * scale**2, rel=9)


@pytest.mark.parametrize("seed", range(8))
def test_flips_swap_left_and_right_once(seed):
    picture, _ = painted(np.random.default_rng(seed))
    resize = ResizeFixed(height=picture.size[0], width=picture.size[1])
    once, twice = (
        run((resize, *flips), picture, flip=(1, 0, 2))[1]
        for flips in (
            (HorizontalFlip(probability=1.0),),
            (HorizontalFlip(probability=1.0), VerticalFlip(probability=1.0)),
        )
    )
    height, width = picture.size
    raw = picture.objects.keypoints
    np.testing.assert_allclose(once.keypoints[:, :, 0], width - raw[:, (1, 0, 2), 0])
    np.testing.assert_allclose(twice.keypoints[:, :, :2], [width, height] - raw[:, :, :2])


def square(x0, y0, x1, y1):
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def test_a_cut_object_has_the_box_of_what_is_left_of_its_outline():
    """By hand: a triangle whose tip is cut off at x = 10 is 5 high there, and its box ends there."""
    triangle = np.array([[0.0, 0], [20, 0], [0, 10]])
    objects = PlacedObjects.of(
        boxes_xyxy=np.array([[0.0, 0, 20, 10], [5, 5, 20, 10]]), labels=np.array([0, 1]), polygons=[[triangle], []]
    )
    shifted = moved(objects, np.array([[1.0, 0, -10], [0, 1, 0], [0, 0, 1]]))
    left = cut(shifted, (20, 20), Limits(min_size=0, min_visible=0), cut_rings=True)
    assert left.boxes_xyxy.tolist() == [[0, 0, 10, 5], [0, 5, 10, 10]]
    assert sorted(left.vertices.tolist()) == [[0, 0], [0, 5], [10, 0]]


def test_what_is_hardly_left_is_dropped_and_outlines_follow_their_objects():
    boxes = [[0, 0, 40, 10], [42, 0, 51, 10], [30, 0, 70, 10], [60, 20, 60.05, 30], [60, 0, 90, 10]]
    polygons = [[square(*box)] for box in boxes]
    polygons[2] = [square(30, 0, 50, 10), square(50, 0, 70, 10)]
    objects = PlacedObjects.of(boxes_xyxy=np.array(boxes, float), labels=np.arange(5), polygons=polygons)
    shifted = moved(objects, np.array([[1.0, 0, -50], [0, 1, 0], [0, 0, 1]]))
    # Gone: the first is outside, of the second a ninth is left (kept), the fourth is narrower than 0.1 pixels.
    placed = cut(shifted, (100, 100), Limits(min_size=0.1, min_visible=0.1))
    assert placed.labels.tolist() == [1, 2, 4]
    assert placed.boxes_xyxy.tolist() == [[0, 0, 1, 10], [0, 0, 20, 10], [10, 0, 40, 10]]
    assert placed.ring_counts.tolist() == [4, 4, 4, 4]
    assert placed.ring_objects.tolist() == [0, 1, 1, 2]
    assert placed.vertices[-4:].tolist() == square(10, 0, 40, 10).tolist()
    assert cut(shifted, (100, 100), Limits(min_size=0.1, min_visible=0.12)).labels.tolist() == [2, 4]


def test_a_turned_box_is_the_extent_of_its_outline_or_else_of_its_corners():
    """By hand: a diamond of half-diagonal 20, turned by 45 degrees, is a square of half-side 20 / sqrt 2 = 14.14."""
    diamond = np.array([[50.0, 30], [70, 50], [50, 70], [30, 50]])
    boxes = np.array([[30.0, 30, 70, 70]] * 2)
    image = torch.zeros((100, 100, 3), dtype=torch.uint8)
    objects = PlacedObjects.of(boxes_xyxy=boxes, labels=np.arange(2), polygons=[[diamond], []])
    turned = Rotate(degrees=(45.0,), sample="choice", expand=False)
    _, placed = run((ResizeFixed(height=100, width=100), turned), Picture(image, objects))
    half, corner = 20 / np.sqrt(2), 20 * np.sqrt(2)
    np.testing.assert_allclose(placed.boxes_xyxy[0], [50 - half, 50 - half, 50 + half, 50 + half])
    np.testing.assert_allclose(placed.boxes_xyxy[1], [50 - corner, 50 - corner, 50 + corner, 50 + corner])


def test_a_turn_is_counter_clockwise_and_expands_to_hold_all():
    """By hand: turned by 90 degrees, the top right corner of 40 x 100 comes to lie at the top left of 100 x 40."""
    picture = empty(40, 100)
    placement, _ = run((ResizeFixed(height=40, width=100), Rotate(degrees=(90.0,), sample="choice")), picture)
    assert placement.content_size == (100, 40)
    np.testing.assert_allclose(placement.geometry @ [100, 0, 1], [0, 0, 1], atol=1e-9)
    np.testing.assert_allclose(placement.geometry @ [0, 0, 1], [0, 100, 1], atol=1e-9)


def empty(height, width):
    return picture_of(np.zeros((height, width, 3), np.uint8))


def test_no_objects():
    _, placed = run((ResizeFixed(height=50, width=60), Affine(degrees=30), MinIoUCrop()), empty(40, 50))
    assert placed.boxes_xyxy.shape == (0, 4) and placed.vertices.shape == (0, 2)


def test_an_image_that_outgrew_its_batch_is_shrunk_into_it():
    picture = Picture(
        torch.zeros((50, 200, 3), dtype=torch.uint8),
        PlacedObjects.of(boxes_xyxy=np.array([[0.0, 0, 200, 50]]), labels=np.zeros(1, np.int64)),
    )
    placement, objects = run((ResizeShortestEdge(sizes=(64,), max_size=1000),), picture, within=(96, 128))
    assert placement.content_size == (32, 128)
    assert objects.boxes_xyxy.tolist() == [[0, 0, 128, 32]]


def test_affine_stays_within_its_ranges():
    transforms = (ResizeFixed(height=80, width=120), Affine(degrees=20, scale=(0.5, 2.0), translate=0.25))
    angles, scales, shifts = [], [], []
    for seed in range(200):
        geometry = run(transforms, empty(80, 120), seed=seed)[0].geometry
        angles.append(np.degrees(np.arctan2(geometry[1, 0], geometry[0, 0])))
        scales.append(np.sqrt(np.linalg.det(geometry[:2, :2])))
        shifts.append(((geometry @ [60, 40, 1])[:2] - [60, 40]) / [120, 80])
    assert -20 <= min(angles) < -15 and 15 < max(angles) <= 20
    assert 0.5 <= min(scales) < 0.7 and 1.8 < max(scales) <= 2.0
    assert np.abs(shifts).max() <= 0.25 and (np.abs(shifts).max(axis=0) > 0.2).all()


def test_a_min_iou_crop_overlaps_every_object_and_holds_a_centre():
    picture, _ = painted(np.random.default_rng(3), count=1)
    transforms = (ResizeFixed(height=picture.size[0], width=picture.size[1]), MinIoUCrop(min_ious=(0.2,)))
    partial = 0
    box = picture.objects.boxes_xyxy[0]
    for seed in range(60):
        placement, _ = run(transforms, picture, seed=seed)
        height, width = placement.content_size
        corner = -placement.geometry[:2, 2]
        centre = (box[:2] + box[2:]) / 2 - corner
        assert (centre > 0).all() and (centre < [width, height]).all()
        partial += placement.content_size != picture.size
        assert 0.3 * picture.size[0] - 1 <= height and 0.3 * picture.size[1] - 1 <= width
    assert partial > 20


def test_a_class_limited_crop_holds_several_classes():
    """Of a picture whose left two thirds are one class, crops of a third are mostly of one class unless limited."""
    semantic = torch.zeros((60, 90), dtype=torch.uint8)
    semantic[:, 60:] = 1
    picture = Picture(torch.zeros((60, 90, 3), dtype=torch.uint8), empty(1, 1).objects, semantic)
    resize = ResizeFixed(height=60, width=90)

    def shares(limit):
        crop = RandomCrop(mode="absolute", size=(30, 30), max_class_share=limit)
        labels = [seen_labels(run((resize, crop), picture, seed=seed)[0]) for seed in range(60)]
        return np.array([max(own.mean(), 1 - own.mean()) for own in labels])

    assert (shares(1.0) == 1.0).mean() > 0.3
    assert (shares(0.75) <= 0.76).mean() > 0.8


def test_a_class_limited_crop_without_maps_is_an_error():
    crop = RandomCrop(mode="absolute", size=(30, 30), max_class_share=0.75)
    with pytest.raises(ValueError, match="needs semantic maps"):
        run((ResizeFixed(height=60, width=90), crop), empty(60, 90))


def test_the_draws_of_one_transform_do_not_depend_on_those_of_others():
    picture, _ = painted(np.random.default_rng(0))
    resize, affine = ResizeFixed(height=80, width=80), Affine(degrees=30)
    one = run((resize, Affine(degrees=0, scale=(0.9, 1.1), probability=0.5), affine), picture, seed=4)[0].geometry
    two = run((resize, HorizontalFlip(probability=0.0), affine), picture, seed=4)[0].geometry
    angles = [np.arctan2(geometry[1, 0], geometry[0, 0]) for geometry in (one, two)]
    assert angles[0] == pytest.approx(angles[1])
