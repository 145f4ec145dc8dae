"""Semantic FPN, Panoptic FPN and DeepLab: their parts against formulas and torchvision."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_detectors import NUM_CLASSES, RESNET, SMALL
from torch import nn
from torchvision.models.segmentation.deeplabv3 import ASPP as TorchvisionASPP

from detcore.config.model import DeepLab, PanopticFPN
from detcore.models import build_model
from detcore.models.heads.deeplab_head import ASPP, DeepLabHead
from detcore.models.heads.semantic_fpn_head import SemanticFPNHead
from detcore.structures.batch import Batch


def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(SMALL[name], num_classes=SMALL[name].num_classes or NUM_CLASSES)


def test_levels_meet_at_one_stride_and_add_up() -> None:
    head = SemanticFPNHead(
        in_channels=8, strides=(4, 8, 16, 32), num_classes=5, channels=16, norm="none", stride=4, loss_weight=1.0
    )
    features = [torch.randn(2, 8, 64 >> level, 96 >> level) for level in range(4)]
    total = torch.zeros(2, 16, 64, 96)
    for level, convs in enumerate(head.levels):
        x = features[level]
        # Figure 3: as many rounds of convolution and doubling as are needed, and one convolution on the finest level.
        for conv in [layer for layer in convs if isinstance(layer, nn.Conv2d)]:
            x = F.relu(F.conv2d(x, conv.weight, conv.bias, padding=1))
            if level:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total += x
    expected = F.conv2d(total, head.predictor.weight, head.predictor.bias)
    torch.testing.assert_close(head(features), expected)
    assert [sum(isinstance(layer, nn.Conv2d) for layer in convs) for convs in head.levels] == [1, 1, 2, 3]


def test_a_level_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="stride 4"):
        SemanticFPNHead(
            in_channels=8, strides=(4, 8), num_classes=5, channels=16, norm="none", stride=8, loss_weight=1.0
        )


@pytest.mark.parametrize(("name", "classes"), [("semantic_fpn", 4), ("deeplab", 4), ("panoptic_fpn", 4)])
def test_logits_are_at_stride_4_of_the_padded_image(name: str, classes: int, make_batch: Callable[..., Batch]) -> None:
    detections = built(name).eval().detect(make_batch(images=2, size=96))
    assert detections.semantic.shape == (2, classes, 24, 24) and detections.semantic.dtype == torch.float32
    if name != "panoptic_fpn":
        assert detections.boxes_xyxy.shape == (2, 0, 4) and detections.valid.shape == (2, 0)


def test_instance_losses_are_weighted_and_the_rpns_are_not(make_batch: Callable[..., Batch]) -> None:
    settings = SMALL["panoptic_fpn"].model_dump()
    model = built("panoptic_fpn")
    heavy = build_model(PanopticFPN(**{**settings, "instance_loss_weight": 3.0}), num_classes=NUM_CLASSES)
    heavy.load_state_dict(model.state_dict())
    plain, weighted = model.losses(make_batch()), heavy.losses(make_batch())
    for name, value in plain.items():
        factor = 3.0 if name in ("loss_cls", "loss_box_reg", "loss_mask") else 1.0
        torch.testing.assert_close(weighted[name], factor * value)


def test_aspp_is_torchvisions() -> None:
    ours = ASPP(in_channels=12, channels=8, rates=(6, 12, 18), norm="bn", separable=False, pool_window=None).eval()
    theirs = TorchvisionASPP(12, [6, 12, 18], 8).eval()
    for mine, other in zip([*ours.branches, ours.project], [*theirs.convs[:4], theirs.project], strict=True):
        other[0].load_state_dict({"weight": mine.weight})
        mine.norm.running_mean.normal_()
        mine.norm.bias.data.normal_()
        other[1].load_state_dict(mine.norm.state_dict())
    # Their image branch has a norm for our bias.
    _, conv, norm, _ = theirs.convs[4]
    nn.init.normal_(ours.whole.bias)
    conv.load_state_dict({"weight": ours.whole.weight})
    norm.running_var.fill_(1 - norm.eps)
    norm.bias.data.copy_(ours.whole.bias)
    x = torch.randn(2, 12, 33, 21)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)
    count = [sum(parameter.numel() for parameter in module.parameters()) for module in (ours, theirs)]
    assert count[0] == count[1] - 8


def test_a_pooling_window_slides() -> None:
    aspp = ASPP(in_channels=4, channels=4, rates=(1,), norm="none", separable=True, pool_window=(3, 50))
    x = torch.randn(1, 4, 6, 8)
    windows = torch.stack([x[:, :, top : top + 3].mean(dim=(2, 3)) for top in range(4)], dim=2)[..., None]
    whole = F.interpolate(aspp.whole(windows), size=(6, 8), mode="bilinear", align_corners=False)
    expected = aspp.project(torch.cat([*(branch(x) for branch in aspp.branches), whole], dim=1))
    torch.testing.assert_close(aspp(x), expected)


@pytest.mark.parametrize(
    ("dilations", "strides"), [((1, 1), (4, 8, 16, 32)), ((1, 2), (4, 8, 16, 16)), ((2, 4), (4, 8, 8, 8))]
)
def test_dilated_stages_keep_their_resolution(dilations: tuple[int, int], strides: tuple[int, ...]) -> None:
    backbone = {
        **RESNET,
        "type": "deeplab_resnet",
        "res4_dilation": dilations[0],
        "res5_dilation": dilations[1],
        "out_features": ("res2", "res3", "res4", "res5"),
    }
    head = {"low_level_channels": [4, 4, 4], "norm": "gn", "aspp_channels": 8, "decoder_channels": 8}
    model = build_model(DeepLab(name="x", backbone=backbone, semantic_head=head), num_classes=2)
    features = model.backbone(torch.zeros(1, 3, 64, 96))
    assert model.backbone.strides == strides
    assert [tuple(feature.shape[-2:]) for feature in features] == [(64 // s, 96 // s) for s in strides]
    found = [block.conv2.dilation[0] for block in model.backbone.res5]
    assert found == ([dilations[1] * factor for factor in (1, 2, 4)] if dilations[1] > 1 else [1, 1, 1])
    assert model.dense(torch.zeros(1, 3, 64, 96)).shape == (1, 2, 16, 24)


def test_without_a_decoder_it_is_deeplab_v3() -> None:
    backbone = {**RESNET, "type": "deeplab_resnet", "out_features": ("res5",)}
    head = {"low_level_channels": (), "norm": "gn", "aspp_channels": 8}
    model = build_model(DeepLab(name="x", backbone=backbone, semantic_head=head), num_classes=2).eval()
    assert model.dense(torch.zeros(1, 3, 64, 96)).shape == (1, 2, 4, 6)
    with pytest.raises(ValueError, match="low_level_channels has 1 widths"):
        build_model(DeepLab(name="x", backbone=backbone, semantic_head={"low_level_channels": (8,)}), num_classes=2)


def test_dropout_is_keyed_by_the_sample(
    make_batch: Callable[..., Batch], rows_of: Callable[[Batch, list[int]], Batch]
) -> None:
    head, batch = built("deeplab").semantic_head, make_batch(images=3)
    assert isinstance(head, DeepLabHead)
    coarsest = torch.zeros(3, 1, 32, 32)
    kept = head.kept(coarsest, batch)
    assert set(kept.unique().tolist()) == {0.0, kept.max().item()}
    assert kept.max().item() == pytest.approx(1 / 0.9)
    assert (kept == 0).float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(head.kept(coarsest[:1], rows_of(batch, [1]))[0], kept[1])
    assert head.eval().kept(coarsest, batch) is None


@pytest.mark.parametrize("name", ["semantic_fpn", "panoptic_fpn", "deeplab", "point_rend"])
def test_a_row_that_is_no_image_counts_for_nothing(
    name: str, make_batch: Callable[..., Batch], rows_of: Callable[[Batch, list[int]], Batch]
) -> None:
    model, batch = built(name), make_batch(images=2)
    padded = rows_of(batch, [0, 1, 1])
    padded = replace(padded, real=torch.tensor([True, True, False]))
    expected = model.losses(batch)
    for key, value in model.losses(padded).items():
        torch.testing.assert_close(value, expected[key], atol=1e-5, rtol=1e-4, msg=key)


@pytest.mark.parametrize("name", ["semantic_fpn", "panoptic_fpn", "deeplab", "point_rend"])
def test_half_precision_gives_finite_losses_and_detections_in_float32(
    name: str, make_batch: Callable[..., Batch]
) -> None:
    model, batch = built(name), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(batch)
        detections = model.eval().detect(batch)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    for output in (detections.masks, detections.semantic):
        assert output is None or (output.dtype == torch.float32 and output.isfinite().all())


def test_a_grid_has_a_factor_for_every_block() -> None:
    backbone = {**RESNET, "type": "deeplab_resnet", "res5_multi_grid": (1, 2)}
    with pytest.raises(ValueError, match="res5 has 3 blocks"):
        build_model(DeepLab(name="x", backbone=backbone), num_classes=2)
