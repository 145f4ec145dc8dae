"""Expected values: torchvision's roi_align at angle 0, and the same features turned by quarter turns."""

import pytest
import torch
import torchvision

from detcore.ops import roi_align_rotated

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
