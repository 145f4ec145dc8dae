import numpy as np
import pytest

from detcore.data import KeypointLayout
from detcore.data.augmentation.objects import Limits, PlacedObjects, cut, moved

COCO = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip


def test_left_and_right_are_told_by_name():
    layout = KeypointLayout.of(COCO, [(0, 1), (1, 3)])
    assert layout.flip == (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
    assert KeypointLayout.of(["L_Eye", "R_Eye", "Tail", "Left Paw", "Right Paw"]).flip == (1, 0, 2, 4, 3)
    assert KeypointLayout.of(["left", "cleft_x", "bright", "left_only"]).flip == (0, 1, 2, 3)
    assert KeypointLayout.from_dict(layout.to_dict()) == layout


def test_layouts_that_make_no_sense_are_named():
    with pytest.raises(ValueError, match="one name twice"):
        KeypointLayout.of(["a", "a"])
    with pytest.raises(ValueError, match=r"skeleton: \[0, 2\] is no pair of the 2 keypoints"):
        KeypointLayout.of(["a", "b"], [(0, 2)])


def place(geometry, keypoints, flip=(1, 0, 2)):
    objects = PlacedObjects.of(
        boxes_xyxy=np.array([[0.0, 0, 40, 40], [90, 90, 95, 95]]),
        labels=np.array([0, 1]),
        keypoints=np.array(keypoints, float),
    )
    placed = cut(moved(objects, np.array(geometry, float), flip), (50, 60), Limits(min_size=1, min_visible=0.1))
    assert placed.labels.tolist() == [0]  # keypoints follow their objects
    assert placed.keypoints is not None
    return placed.keypoints[0].tolist()


POINTS = [[[10, 20, 2], [30, 20, 1], [0, 0, 0]], [[91, 91, 2]] * 3]


def test_a_flip_swaps_left_and_right():
    """By hand, on an image 60 wide: x becomes 60 - x, then the two sides change places."""
    assert place([[-1, 0, 60], [0, 1, 0], [0, 0, 1]], POINTS) == [[30, 20, 1], [50, 20, 2], [0, 0, 0]]
    assert place(np.eye(3), POINTS) == [[10, 20, 2], [30, 20, 1], [0, 0, 0]]


def test_a_turn_by_half_is_no_mirror():
    assert place([[-1, 0, 60], [0, -1, 50], [0, 0, 1]], POINTS) == [[50, 30, 2], [30, 30, 1], [0, 0, 0]]


def test_what_leaves_the_image_is_not_labelled():
    assert place([[1, 0, 30], [0, 1, 0], [0, 0, 1]], POINTS) == [[40, 20, 2], [0, 0, 0], [0, 0, 0]]
    assert place([[1, 0, 0], [0, 1, -21], [0, 0, 1]], POINTS) == [[0, 0, 0]] * 3
