"""Parts of the second stage and the neck, each against its definition."""

import pytest
import torch
import torch.nn.functional as F

from detcore.models.backbones.fpn import FPN
from detcore.models.heads.box_head import BoxHead
from detcore.models.heads.mask_head import MaskHead
from detcore.models.proposals.rpn import Proposals

STRIDES = (4, 8)
FEATURES = [torch.randn(1, 8, 16, 16), torch.randn(1, 8, 8, 8)]
REGIONS = torch.tensor([[[4.0, 4.0, 24.0, 28.0], [0.0, 8.0, 60.0, 40.0]]])


def box_head(*, class_agnostic: bool) -> BoxHead:
    return BoxHead(
        in_channels=8,
        strides=STRIDES,
        num_classes=3,
        pooler_resolution=3,
        sampling_ratio=1,
        num_convs=1,
        conv_channels=8,
        norm="gn",
        num_fcs=1,
        fc_channels=8,
        class_agnostic=class_agnostic,
        box_weights=(1.0, 1.0, 1.0, 1.0),
        smooth_l1_beta=0.0,
    )


def mask_head(*, class_agnostic: bool) -> MaskHead:
    return MaskHead(
        in_channels=8,
        strides=STRIDES,
        num_classes=3,
        pooler_resolution=4,
        sampling_ratio=1,
        num_convs=0,
        conv_channels=8,
        norm="none",
        class_agnostic=class_agnostic,
    )


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_boxes_are_those_of_the_region_and_the_class(class_agnostic: bool) -> None:
    head = box_head(class_agnostic=class_agnostic)
    # Class c (or the only one) moves the centre by (c + 1) widths to the right, whatever the region looks like.
    torch.nn.init.zeros_(head.box_offsets.weight)
    head.box_offsets.bias.data = (torch.eye(4)[0] * torch.arange(1, 2 if class_agnostic else 4)[:, None]).flatten()
    valid = torch.ones(1, 2, dtype=torch.bool)
    predictions = head.predict(FEATURES, Proposals(REGIONS, torch.zeros(1, 2), valid, torch.zeros(1, 2)))
    boxes = predictions.boxes(torch.tensor([[1, 0, 1]]), torch.tensor([[2, 1, 0]]))
    widths = torch.tensor([60.0, 20.0, 60.0]) * (1 if class_agnostic else torch.tensor([3, 2, 1]))
    expected = REGIONS[0, [1, 0, 1]] + torch.tensor([1.0, 0.0, 1.0, 0.0]) * widths[:, None]
    torch.testing.assert_close(boxes[0], expected)
    # The background's label, which padding has, must not reach out of bounds.
    offsets = head.offsets_of_class(head.hidden(FEATURES, REGIONS, valid), torch.tensor([[2, 3]]))
    assert offsets[0, 0, 0] == (1 if class_agnostic else 3)


@pytest.mark.parametrize("class_agnostic", [False, True])
def test_mask_is_that_of_the_transposed_convolution_at_the_class(class_agnostic: bool) -> None:
    head = mask_head(class_agnostic=class_agnostic)
    pooled, labels = torch.randn(2, 8, 4, 4), torch.tensor([2, 0])
    upsampled = F.conv_transpose2d(pooled, head.upsample.weight, head.upsample.bias, stride=2).relu()
    every_class = F.conv2d(upsampled, head.predictor.weight[..., None, None], head.predictor.bias)
    expected = every_class[[0, 1], 0 if class_agnostic else labels]
    torch.testing.assert_close(head._mask_of_class(pooled, labels), expected, atol=1e-6, rtol=1e-5)


def test_pyramid_adds_the_coarser_level_and_ends_in_a_strided_one() -> None:
    fpn = FPN(in_channels=(3, 5, 7, 9), in_strides=(4, 8, 16, 32), channels=8, norm="none", top="max_pool")
    features = [torch.randn(1, width, 32 >> level, 64 >> level) for level, width in enumerate((3, 5, 7, 9))]
    outputs = fpn(features)
    assert [tuple(x.shape) for x in outputs] == [(1, 8, 32 >> level, 64 >> level) for level in range(5)]
    torch.testing.assert_close(outputs[4], outputs[3][..., ::2, ::2])
    coarse = fpn.lateral[3](features[3]).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(outputs[2], fpn.output[2](fpn.lateral[2](features[2]) + coarse))


def test_pyramid_may_average_instead() -> None:
    fpn = FPN(in_channels=(3, 5, 7), in_strides=(8, 16, 32), channels=8, norm="none", fuse="avg", top="none")
    features = [torch.randn(1, width, 16 >> level, 16 >> level) for level, width in enumerate((3, 5, 7))]
    merged = fpn.lateral[2](features[2])
    for level in (1, 0):
        coarse = merged.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        merged = (fpn.lateral[level](features[level]) + coarse) / 2
    torch.testing.assert_close(fpn(features)[0], fpn.output[0](merged))


def test_pyramid_refuses_levels_of_one_stride() -> None:
    with pytest.raises(ValueError, match=r"strides that double.*\(16, 16\).*res5_dilation"):
        FPN(in_channels=(3, 5), in_strides=(16, 16), channels=8, norm="none", top="none")
