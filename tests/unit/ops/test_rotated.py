"""Expected values: axis-aligned IoU by torchvision; polygon clipping in exact fractions of pixels; closed forms."""

import math

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor

from detcore.ops import batched_nms_rotated, box_iou_rotated, nms_rotated, nms_rotated_padded


def random_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    unit = torch.rand((count, 5), generator=generator)
    return unit * torch.tensor([40, 40, 30, 12, 720]) + torch.tensor([0, 0, 1, 1, -360])


def corners(box: np.ndarray) -> np.ndarray:
    """(4, 2); counter-clockwise on the screen, where y points down: (1, 0) turns towards (0, -1)."""
    cx, cy, w, h, angle = box
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along, across = np.array([cos, -sin]) * w / 2, np.array([sin, cos]) * h / 2
    return np.array([cx, cy]) + np.array([along + across, across - along, -along - across, along - across])


def clipped_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Sutherland-Hodgman clipping of a by the sides of b, then the shoelace formula."""
    polygon, clip = list(corners(a)), corners(b)
    for start, end in zip(clip, np.roll(clip, -1, axis=0), strict=True):
        edge = end - start
        side = [edge[0] * (p[1] - start[1]) - edge[1] * (p[0] - start[0]) for p in polygon]
        kept = []
        for k, (p, s) in enumerate(zip(polygon, side, strict=True)):
            previous, before = polygon[k - 1], side[k - 1]
            if (s >= 0) != (before >= 0):
                kept.append(previous + (p - previous) * before / (before - s))
            if s >= 0:
                kept.append(p)
        polygon = kept
        if not polygon:
            return 0.0
    x, y = np.array(polygon).T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    return area / (a[2] * a[3] + b[2] * b[3] - area)


def test_iou_equals_polygon_clipping() -> None:
    a, b = random_boxes(60, 0), random_boxes(50, 1)
    rows = [[clipped_iou(p, q) for q in b.double().numpy()] for p in a.double().numpy()]
    want = torch.tensor(rows, dtype=torch.float64)
    got = box_iou_rotated(a.double(), b.double())
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)
    assert (got > 0.2).sum() > 20
    torch.testing.assert_close(box_iou_rotated(a, b), want.float(), rtol=0, atol=1e-7)


def test_iou_without_rotation_equals_torchvision() -> None:
    boxes = random_boxes(80, 2)
    boxes[:, 4] = 0
    upright = torchvision.ops.box_convert(boxes[:, :4], "cxcywh", "xyxy")
    torch.testing.assert_close(box_iou_rotated(boxes, boxes), torchvision.ops.box_iou(upright, upright))


def test_iou_in_closed_form() -> None:
    square = torch.tensor([[3.0, 4, 2, 2, 0]])
    others = torch.tensor([[3.0, 4, 2, 2, 45], [3, 4, 2, 2, 90], [3, 4, 2, 2, -630], [3, 4, 4, 1, 90], [9, 9, 1, 1, 7]])
    octagon = 8 * (math.sqrt(2) - 1)  # a square of side 2 and the same turned by 45 degrees share a regular octagon
    want = torch.tensor([[octagon / (8 - octagon), 1.0, 1.0, 2 / 6, 0.0]])
    torch.testing.assert_close(box_iou_rotated(square, others), want)


def test_angles_turn_counter_clockwise_on_the_screen() -> None:
    # A long box at +45 degrees runs from bottom left to top right: it covers a point up right, where y is smaller.
    long = torch.tensor([[0.0, 0, 20, 2, 45]])
    assert box_iou_rotated(long, torch.tensor([[5.0, -5, 1, 1, 0], [5, 5, 1, 1, 0]])).gt(0).tolist() == [[True, False]]


@pytest.mark.parametrize("angle", [0.0, 30.0, 45.0, 89.999, 123.4])
@pytest.mark.parametrize("size", [(1e-3, 1e-3), (1.0, 1000.0), (1e4, 1e4)])
def test_a_box_equals_itself(angle: float, size: tuple[float, float]) -> None:
    rows = [[1000.0, 2000.0, *size, angle], [1000.0, 2000.0, *size, angle + 180]]
    boxes = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(box_iou_rotated(boxes, boxes), torch.ones_like(boxes[:, :2]), rtol=0, atol=1e-9)


def test_undefined_boxes_have_no_iou() -> None:
    box = torch.tensor([[5.0, 5, 4, 4, 10]])
    odd = box.repeat(7, 1)
    for row, (column, value) in enumerate(
        [(0, torch.nan), (1, torch.inf), (2, torch.inf), (4, torch.nan), (2, 0.0), (3, -4.0), (3, torch.nan)]
    ):
        odd[row, column] = value
    assert not box_iou_rotated(odd, torch.cat((box, odd))).any()
    keep = nms_rotated(torch.cat((box, odd)), torch.arange(8).float(), 0.5)
    assert keep.tolist() == [7, 6, 5, 4, 3, 2, 1, 0]


def expected(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float, valid: Tensor | None = None
) -> list[int]:
    """Greedy suppression from its definition."""
    overlap = box_iou_rotated(boxes, boxes) > threshold
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        rivals = [k for k in kept if groups is None or groups[k] == groups[i]]
        if (valid is None or valid[i]) and not overlap[rivals, i].any():
            kept.append(i)
    return kept


def test_nms_equals_the_definition() -> None:
    boxes = random_boxes(150, 3)
    scores = torch.randint(0, 30, (150,), generator=torch.Generator().manual_seed(4)).float()
    groups = torch.randint(0, 3, (150,), generator=torch.Generator().manual_seed(5))
    assert nms_rotated(boxes, scores, 0.3).tolist() == expected(boxes, scores, None, 0.3)
    assert batched_nms_rotated(boxes, scores, groups, 0.3).tolist() == expected(boxes, scores, groups, 0.3)
    valid = torch.arange(150) % 3 != 0
    keep, count = nms_rotated_padded(
        torch.stack((boxes, boxes)), torch.stack((scores, -scores)), None, 0.3, 20, valid=torch.stack((valid, ~valid))
    )
    for image, (score, own) in enumerate(((scores, valid), (-scores, ~valid))):
        want = expected(boxes, score, None, 0.3, own)[:20]
        assert keep[image, : count[image]].tolist() == want and not keep[image, count[image] :].any()


def test_a_box_at_the_threshold_survives() -> None:
    boxes = torch.tensor([[1.0, 1, 2, 2, 0], [1, 0.5, 2, 1, 0]])  # IoU exactly 1/2
    assert nms_rotated(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0, 1]
    assert nms_rotated(boxes, torch.tensor([0.9, 0.8]), 0.499).tolist() == [0]


def test_rotated_of_nothing() -> None:
    none, some = torch.zeros(0, 5), random_boxes(3, 0)
    assert box_iou_rotated(none, some).shape == (0, 3) and box_iou_rotated(some, none).shape == (3, 0)
    assert nms_rotated(none, torch.zeros(0), 0.5).shape == (0,)
    keep, count = nms_rotated_padded(torch.zeros(0, 4, 5), torch.zeros(0, 4), None, 0.5, 2)
    assert keep.shape == (0, 2) and count.shape == (0,)
