"""Rotated boxes in NumPy, against the operators' convention and plain searches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detcore.data.augmentation.objects import Limits, PlacedObjects, cut
from detcore.data.rotated import half_axes, move, smallest_box, upright, without_heading
from detcore.ops import box_iou_rotated


def random_boxes(number, seed=0):
    random = np.random.default_rng(seed)
    centre, size = random.uniform(20, 80, (number, 2)), random.uniform(4, 30, (number, 2))
    return np.column_stack([centre, size, random.uniform(-180, 180, number)])


def corners(boxes):
    along, down = half_axes(boxes)
    around = [-along - down, along - down, along + down, -along + down]
    return boxes[:, None, :2] + np.stack(around, axis=1)


def geometry(linear, shift=(0.0, 0.0)):
    matrix = np.eye(3)
    matrix[:2, :2], matrix[:2, 2] = linear, shift
    return matrix


def overlap(a, b):
    return box_iou_rotated(torch.from_numpy(a), torch.from_numpy(b)).diagonal().numpy()


def test_angles_are_counter_clockwise_as_one_sees_the_image():
    """A box of 20 x 2 at 30 degrees: its right end is higher, at y = -10 sin 30 = -5."""
    along, down = half_axes(np.array([[0.0, 0, 20, 2, 30]]))
    np.testing.assert_allclose(along[0], [10 * np.cos(np.pi / 6), -5])
    np.testing.assert_allclose(down[0], [0.5, np.cos(np.pi / 6)])
    np.testing.assert_allclose(upright(np.array([[50.0, 40, 20, 10, 90]])), [[45, 30, 55, 50]])


def test_the_operators_mean_the_same_boxes():
    """The IoU with a box of which a half is cut off along its width is a half, only if width and angle agree."""
    boxes = random_boxes(50)
    along, _ = half_axes(boxes)
    halves = boxes.copy()
    halves[:, :2] += along / 2
    halves[:, 2] /= 2
    np.testing.assert_allclose(overlap(boxes, halves), 0.5, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.floats(-180, 180), st.floats(0.3, 3), st.booleans(), st.integers(0, 100))
def test_similar_maps_are_exact(degrees, scale, mirrored, seed):
    turn = np.radians(degrees)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    if mirrored:
        linear = linear @ np.diag([-1.0, 1.0])
    matrix, boxes = geometry(linear, (7, -3)), random_boxes(20, seed)
    moved = move(boxes, matrix)
    np.testing.assert_allclose(moved[:, 2:4], scale * boxes[:, 2:4])
    expected = corners(boxes) @ linear.T + [7, -3]
    found = corners(moved)[:, [1, 0, 3, 2]] if mirrored else corners(moved)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_horizontal_flip_negates_the_angle():
    boxes = random_boxes(20)
    flipped = move(boxes, geometry(np.diag([-1.0, 1.0]), (100, 0)))
    np.testing.assert_allclose(flipped, boxes * [-1, 1, 1, 1, -1] + [100, 0, 0, 0, 0])


@pytest.mark.parametrize("linear", [[[1.5, 0.0], [0.0, 0.8]], [[1.0, 0.4], [-0.1, 0.9]], [[-1.1, 0.3], [0.2, 0.7]]])
def test_other_maps_give_the_nearest_box(linear):
    """Against a search over angles: for each, the half sides that are nearest are projections of the moved ones."""
    boxes, linear = random_boxes(20), np.array(linear)
    moved = move(boxes, geometry(linear))
    along, down = (axis @ linear.T for axis in half_axes(boxes))

    def error(boxes):
        own = half_axes(boxes)
        ways = [(own[0] * s, own[1] * t) for s in (1, -1) for t in (1, -1)]
        return np.min([((a - along) ** 2 + (b - down) ** 2).sum(axis=1) for a, b in ways], axis=0)

    best = np.full(len(boxes), np.inf)
    for degrees in np.arange(-90, 90, 0.25):
        tried = moved.copy()
        tried[:, 2:] = [2, 2, degrees]
        unit, normal = half_axes(tried)
        tried[:, 2] = 2 * np.abs((along * unit).sum(axis=1))
        tried[:, 3] = 2 * np.abs((down * normal).sum(axis=1))
        best = np.minimum(best, error(tried))
    assert (error(moved) <= best + 1e-9).all()
    np.testing.assert_allclose(error(moved), best, rtol=0.02, atol=0.02)
    direction, expected = half_axes(moved)[1], down
    assert ((direction * expected).sum(axis=1) > 0).all()


def test_the_smallest_box_of_a_rectangle_is_itself_and_its_width_is_longer():
    boxes = random_boxes(50)
    found = smallest_box(corners(boxes))
    assert (found[:, 2] >= found[:, 3]).all() and (np.abs(found[:, 4]) <= 90).all()
    np.testing.assert_allclose(overlap(found, boxes), 1.0, atol=1e-5)


def test_the_smallest_box_of_any_quadrilateral():
    """Against a search over angles; a corner within the triangle of the others is no side of it."""
    random = np.random.default_rng(0)
    points = random.uniform(0, 50, (30, 4, 2))
    points[0] = [[0, 0], [10, 0], [5, 3], [5, 9]]
    found = smallest_box(points)
    best = np.full(len(points), np.inf)
    for turn in np.radians(np.arange(0, 90, 0.1)):
        axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        place = points @ axes.T
        best = np.minimum(best, np.ptp(place, axis=1).prod(axis=1))
    np.testing.assert_allclose(found[:, 2] * found[:, 3], best, rtol=0.01)
    along, down = half_axes(found)
    offset = points - found[:, None, :2]
    for axis in (along, down):
        reach = (offset @ axis[:, :, None])[..., 0] / (axis**2).sum(axis=1)[:, None]
        assert (np.abs(reach) <= 1 + 1e-9).all()
    degenerate = smallest_box(np.zeros((1, 4, 2)))
    assert degenerate.tolist() == [[0, 0, 0, 0, 0]]


def test_without_heading():
    assert without_heading(np.array([-180.0, -90, 0, 90, 135, 180])).tolist() == [0, -90, 0, -90, -45, 0]


def test_objects_go_by_their_centre_and_are_not_clipped():
    boxes = np.array([[59.0, 25, 20, 10, 0], [60.0, 25, 20, 10, 0], [30.0, 25, 0.5, 10, 0], [5.0, -0.1, 9, 9, 45]])
    objects = PlacedObjects.of(boxes_xyxy=np.zeros((4, 4)), labels=np.arange(4), boxes_xywha=boxes)
    placed = cut(objects, (50, 60), Limits(min_size=1, min_visible=0.1))
    assert placed.labels.tolist() == [0]
    assert placed.boxes_xywha is not None and placed.boxes_xywha.tolist() == [[59, 25, 20, 10, 0]]
    assert placed.boxes_xyxy.tolist() == [[49, 20, 69, 30]]
