"""Expected values: torchvision's roi_align at angle 0, and the same features turned by quarter turns."""

import pytest
import torch
import torchvision

from detcore.ops import multilevel_roi_align, multilevel_roi_align_rotated, roi_align_rotated
from detcore.ops.multilevel_roi_align import _pool_everywhere, _pool_grouped

FEATURES = torch.rand((2, 3, 14, 12), generator=torch.Generator().manual_seed(0))
ROIS = torch.tensor([[0, 20.0, 22, 30, 17], [1, 6, 30, 30, 50], [1, 3, 3, 0.5, 0.7], [0, 44, 2, 20, 24]])


def with_angle(angle: float) -> torch.Tensor:
    return torch.cat((ROIS, torch.full((len(ROIS), 1), angle)), dim=1)


@pytest.mark.parametrize("sampling_ratio", [0, 1, 3])
def test_without_rotation_equals_torchvision(sampling_ratio: int) -> None:
    upright = torch.cat((ROIS[:, :1], torchvision.ops.box_convert(ROIS[:, 1:], "cxcywh", "xyxy")), dim=1)
    want = torchvision.ops.roi_align(FEATURES, upright, (5, 4), 0.25, sampling_ratio, True)
    torch.testing.assert_close(roi_align_rotated(FEATURES, with_angle(0.0), (5, 4), 0.25, sampling_ratio), want)
    half = roi_align_rotated(FEATURES.half(), with_angle(0.0), (5, 4), 0.25, sampling_ratio)
    torch.testing.assert_close(half.float(), want, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_a_quarter_turn_of_the_box_is_one_of_the_features(sampling_ratio: int) -> None:
    # Turned counter-clockwise by 90 degrees on the screen, pixel coordinates (x, y) of a w wide map go to (y, w - x).
    turned = torch.rot90(FEATURES, 1, (2, 3))
    rois = with_angle(0.0)
    moved = torch.stack((rois[:, 0], rois[:, 2], 12 * 4 - rois[:, 1], rois[:, 3], rois[:, 4], rois[:, 5] + 90), dim=1)
    torch.testing.assert_close(
        roi_align_rotated(turned, moved, 5, 0.25, sampling_ratio),
        roi_align_rotated(FEATURES, rois, 5, 0.25, sampling_ratio),
    )


def test_a_full_turn_changes_nothing() -> None:
    a, b = (roi_align_rotated(FEATURES, with_angle(angle), 5, 0.25, 0) for angle in (33.0, 33.0 - 360))
    torch.testing.assert_close(a, b)
    assert (roi_align_rotated(FEATURES, with_angle(-33.0), 5, 0.25, 0) - a).abs().max() > 0.01


def test_gradients() -> None:
    features = FEATURES[:, :2, :5, :6].double().requires_grad_()
    rois = torch.tensor([[0, 3.0, 2, 4, 3, 30], [1, 5, 4, 6, 2, -100]]).double()
    for sampling_ratio in (0, 2):
        assert torch.autograd.gradcheck(lambda f, s=sampling_ratio: roi_align_rotated(f, rois, 2, 1.0, s), features)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_undefined_rois_give_zero(sampling_ratio: int) -> None:
    rows = [[0, torch.nan, 0, 9, 9, 0], [0, 0, 0, torch.inf, 9, 0], [torch.nan, 0, 0, 9, 9, 0], [2, 5, 5, 9, 9, 0]]
    rows += [[0, 5, 5, 9, 9, torch.nan], [-1, 5, 5, 9, 9, 0]]
    assert not roi_align_rotated(FEATURES, torch.tensor(rows), 3, 0.25, sampling_ratio).any()
    assert roi_align_rotated(FEATURES, torch.zeros(0, 6), 3, 0.25, sampling_ratio).shape == (0, 3, 3, 3)
    assert not roi_align_rotated(FEATURES[:0], with_angle(0.0), 3, 0.25, sampling_ratio).any()
    roi_align_rotated(FEATURES, torch.tensor([[0, 0, 0, 1e30, 1e30, 1]]), 3, 0.25, sampling_ratio)


STRIDES = (4, 8, 16)


def pyramid() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.rand((2, 3, 96 // stride, 128 // stride), generator=generator) for stride in STRIDES]


def test_each_rotated_box_is_pooled_from_the_level_of_its_area() -> None:
    # FPN's equation 1, canonical size 224 at stride 16, over the area alone: thin boxes count by width times height.
    sides = [(20.0, 30.0), (111.0, 111.0), (56.0, 224.0), (200.0, 240.0), (250.0, 250.0)]
    levels = [0, 0, 1, 1, 2]
    boxes = torch.tensor([[[60.0, 50.0, w, h, 25.0] for w, h in sides]]).repeat(2, 1, 1)
    pooled = multilevel_roi_align_rotated(pyramid(), boxes, STRIDES, 5, 2)
    for row, level in enumerate(levels * 2):
        roi = torch.cat((torch.tensor([row // 5]), boxes[row // 5, row % 5]))[None]
        want = roi_align_rotated(pyramid()[level], roi, 5, 1 / STRIDES[level], 2)
        torch.testing.assert_close(pooled[row : row + 1], want)


def test_at_angle_0_a_pyramid_is_pooled_as_for_upright_boxes() -> None:
    generator = torch.Generator().manual_seed(4)
    upright = torch.rand(2, 30, 4, generator=generator) * 60
    upright[..., 2:] += upright[..., :2] + 1
    rotated = torchvision.ops.box_convert(upright, "xyxy", "cxcywh")
    rotated = torch.cat((rotated, torch.zeros(2, 30, 1)), dim=-1)
    valid = torch.rand(2, 30, generator=generator) < 0.8
    for sampling_ratio in (0, 2):
        torch.testing.assert_close(
            multilevel_roi_align_rotated(
                pyramid(), rotated, STRIDES, 5, sampling_ratio, canonical_size=40.0, canonical_level=3, valid=valid
            ),
            multilevel_roi_align(
                pyramid(), upright, STRIDES, 5, sampling_ratio, canonical_size=40.0, canonical_level=3, valid=valid
            ),
        )


def test_both_ways_of_pooling_rotated_boxes_agree() -> None:
    generator = torch.Generator().manual_seed(5)
    rois = torch.rand(20, 6, generator=generator) * torch.tensor([2.0, 96, 96, 60, 60, 180])
    rois[:, 0] = rois[:, 0].floor()
    level = torch.randint(-1, 3, (20,), generator=generator)
    everywhere, grouped = (
        pool(pyramid(), rois, level, STRIDES, 5, 2, roi_align_rotated) for pool in (_pool_everywhere, _pool_grouped)
    )
    torch.testing.assert_close(everywhere, grouped)


def test_rotated_pyramid_empty_inputs_and_errors() -> None:
    assert multilevel_roi_align_rotated(pyramid(), torch.zeros(2, 0, 5), STRIDES, 7).shape == (0, 3, 7, 7)
    with pytest.raises(ValueError, match="consecutive powers of two"):
        multilevel_roi_align_rotated(pyramid(), torch.zeros(2, 1, 5), (4, 8), 7)
    with pytest.raises(ValueError, match="must be"):
        multilevel_roi_align_rotated(pyramid(), torch.zeros(2, 1, 4), STRIDES, 7)
    with pytest.raises(ValueError, match="canonical_size"):
        multilevel_roi_align_rotated(pyramid(), torch.zeros(2, 1, 5), STRIDES, 7, canonical_size=0.0)
