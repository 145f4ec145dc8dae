"""Expected values: torchvision's roi_align on RoIs that it is defined for."""

import pytest
import torch
import torchvision
from torch import Tensor

from detcore.ops import multilevel_roi_align, roi_align
from detcore.ops.multilevel_roi_align import _pool_everywhere, _pool_grouped

ROIS = torch.tensor([[0, 1.5, 2.0, 40.0, 30.0], [1, -6.0, 10, 20, 70], [1, 3, 3, 3.5, 3.25], [0, 0, 0, 0, 0]])
UNDEFINED = [
    [0, torch.nan, 0, 9, 9],
    [0, 0, 0, torch.inf, 9],
    [0, -torch.inf, 0, 9, 9],
    [torch.nan, 0, 0, 9, 9],
    [2, 0, 0, 9, 9],
    [-1, 0, 0, 9, 9],
]


def feature_map(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_equals_torchvision(sampling_ratio: int, aligned: bool) -> None:
    features = feature_map(2, 3, 14, 12)
    want = torchvision.ops.roi_align(features, ROIS, (7, 5), 0.25, sampling_ratio, aligned)
    torch.testing.assert_close(roi_align(features, ROIS, (7, 5), 0.25, sampling_ratio, aligned), want)
    last = features.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(roi_align(last, ROIS, (7, 5), 0.25, sampling_ratio, aligned), want)
    half = roi_align(features.bfloat16(), ROIS, (7, 5), 0.25, sampling_ratio, aligned)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), want, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("sampling_ratio", [0, 2])
@pytest.mark.parametrize("aligned", [True, False])
def test_undefined_rois_give_zero_and_no_gradient(sampling_ratio: int, aligned: bool) -> None:
    features = feature_map(2, 3, 14, 12).requires_grad_()
    pooled = roi_align(features, torch.tensor(UNDEFINED), 7, 0.25, sampling_ratio, aligned)
    pooled.sum().backward()
    assert not pooled.any() and features.grad is not None and not features.grad.any()


def test_a_gigantic_roi_is_clamped() -> None:
    rois = torch.tensor([[0, -1e30, -1e30, 1e30, 1e30], [0, 0, 0, 3e38, 8]])
    features = torch.ones(1, 2, 8, 8)
    reach = torch.tensor([[0.0, -96, -96, 128, 128], [0, 0, 0, 128, 8]])
    torch.testing.assert_close(roi_align(features, rois, 3, 0.25, 0), roi_align(features, reach, 3, 0.25, 0))


def test_gradients() -> None:
    features = feature_map(2, 2, 6, 5, dtype=torch.float64).requires_grad_()
    rois = torch.tensor([[0, 1.5, 2.0, 14.0, 13.0], [1, -3, 4, 12, 17], [0, torch.nan, 0, 1, 1]], dtype=torch.float64)
    for sampling_ratio in (0, 2):
        assert torch.autograd.gradcheck(lambda f, s=sampling_ratio: roi_align(f, rois, 2, 0.25, s), features)


def test_empty_inputs() -> None:
    assert roi_align(torch.rand(2, 3, 4, 4), torch.zeros(0, 5), 7, 1.0, 2).shape == (0, 3, 7, 7)
    assert not roi_align(torch.rand(0, 3, 4, 4), torch.zeros(2, 5), 7, 1.0, 2).any()


STRIDES = (4, 8, 16)


def pyramid(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    return [feature_map(2, 3, 96 // stride, 128 // stride, dtype=dtype) + stride for stride in STRIDES]


def boxes_of(sides: list[float]) -> Tensor:
    return torch.tensor([[5.0, 7, 5 + side, 7 + side] for side in sides])


def test_each_box_is_pooled_from_the_level_of_its_size() -> None:
    # FPN's equation 1 with canonical size 224 at level 4: stride 4 below 112, stride 8 below 224, stride 16 from there.
    sides = [10.0, 111, 112, 223, 224, 250]
    levels = [0, 0, 1, 1, 2, 2]
    features, boxes = pyramid(), boxes_of(sides).expand(2, -1, -1)
    pooled = multilevel_roi_align(features, boxes, STRIDES, 7, 2)
    assert pooled.shape == (12, 3, 7, 7)
    for row, level in enumerate(levels * 2):
        roi = torch.cat((torch.tensor([row // 6]), boxes_of(sides)[row % 6]))[None]
        want = torchvision.ops.roi_align(features[level], roi, 7, 1 / STRIDES[level], 2, True)
        torch.testing.assert_close(pooled[row : row + 1], want)


def test_unaligned_boxes_are_pooled_as_torchvision_pools_them() -> None:
    sides = [0.5, 10.0, 111, 112, 223, 224, 250]  # the first is narrower than a pixel of its level
    levels = [0, 0, 0, 1, 1, 2, 2]
    features, boxes = pyramid(), boxes_of(sides).expand(2, -1, -1)
    pooled = multilevel_roi_align(features, boxes, STRIDES, 7, 2, aligned=False)
    for row, level in enumerate(levels * 2):
        roi = torch.cat((torch.tensor([row // 7]), boxes_of(sides)[row % 7]))[None]
        want = torchvision.ops.roi_align(features[level], roi, 7, 1 / STRIDES[level], 2, False)
        torch.testing.assert_close(pooled[row : row + 1], want)


def test_canonical_size_moves_the_levels() -> None:
    features = pyramid()
    boxes = boxes_of([40.0])[None].expand(2, -1, -1)
    want = multilevel_roi_align(features[1:2], boxes, (8,), 7)
    torch.testing.assert_close(multilevel_roi_align(features, boxes, STRIDES, 7, canonical_size=64.0), want)
    torch.testing.assert_close(multilevel_roi_align(features, boxes, STRIDES, 7, canonical_level=6), want)


def test_rows_that_are_not_valid_or_not_finite_are_zero() -> None:
    boxes = boxes_of([20.0, 20, 20, 300]).repeat(2, 1, 1)
    boxes[0, 1, 0], boxes[1, 2, 3] = torch.nan, torch.inf
    valid = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0]], dtype=torch.bool)
    used = (multilevel_roi_align(pyramid(), boxes, STRIDES, 7, valid=valid) != 0).flatten(1).any(1)
    assert used.tolist() == [True, False, False, True, True, True, False, False]


def test_both_ways_of_pooling_agree() -> None:
    generator = torch.Generator().manual_seed(1)
    rois = torch.cat((torch.randint(0, 2, (40, 1), generator=generator), torch.zeros(40, 2), torch.rand(40, 2) * 90), 1)
    level = torch.randint(-1, 3, (40,), generator=generator)
    features = pyramid()
    torch.testing.assert_close(
        _pool_everywhere(features, rois, level, STRIDES, 5, 0), _pool_grouped(features, rois, level, STRIDES, 5, 0)
    )


def test_multilevel_gradients() -> None:
    features = [feature_map(2, 2, 8 // s, 8 // s, dtype=torch.float64).requires_grad_() for s in (1, 2)]
    boxes = torch.tensor([[[0.5, 0.5, 3, 3], [0, 1, 8, 7]], [[1, 1, 6, 6], [2, 2, 4, 3]]], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *f: multilevel_roi_align(f, boxes, (1, 2), 2, canonical_size=4.0, canonical_level=1), features
    )


def test_multilevel_empty_inputs_and_errors() -> None:
    assert multilevel_roi_align(pyramid(), torch.zeros(2, 0, 4), STRIDES, 7).shape == (0, 3, 7, 7)
    assert multilevel_roi_align([f[:0] for f in pyramid()], torch.zeros(0, 5, 4), STRIDES, 7).shape == (0, 3, 7, 7)
    for strides in ((4, 8), (4, 8, 32), (4, 8, 12), (16, 8, 4)):
        with pytest.raises(ValueError, match="consecutive powers of two"):
            multilevel_roi_align(pyramid(), torch.zeros(2, 1, 4), strides, 7)
