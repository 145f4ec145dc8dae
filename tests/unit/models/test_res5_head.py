"""Detectors without a pyramid: res5 as the box head, and shared with the masks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_detectors import C4, NUM_CLASSES, SMALL
from torch import nn

from detcore.config.model import FasterRCNN, MaskRCNN
from detcore.models import build_model
from detcore.models.backbones.resnet import ResNet
from detcore.models.heads.res5_head import Res5Head
from detcore.models.norm import FrozenBatchNorm
from detcore.ops import roi_align
from detcore.structures.batch import Batch

REGIONS = torch.tensor([[[4.0, 4.0, 44.0, 58.0], [0.0, 8.0, 60.0, 40.0], [0.0, 0.0, 0.0, 0.0]]])
VALID = torch.tensor([[True, True, False]])


def build(config: FasterRCNN | MaskRCNN, *, load_weights: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return build_model(config, num_classes=NUM_CLASSES, load_weights=load_weights)


@torch.inference_mode()
def test_a_region_s_features_are_a_whole_resnet_s_res5_of_what_is_pooled() -> None:
    """The head's stage is the one that the backbone leaves out: the same weights, the same function."""
    head = build(SMALL["faster_rcnn_c4"]).eval().box_head
    whole = ResNet(
        depth=50,
        norm="gn",
        stride_in_1x1=True,
        stem_channels=8,
        res2_channels=32,
        groups=1,
        width_per_group=8,
        frozen_stages=0,
        image_mean=(0.0, 0.0, 0.0),
        image_std=(1.0, 1.0, 1.0),
    )
    whole.res5.load_state_dict(head.res5.state_dict())
    features = torch.randn(1, 128, 4, 4)
    rois = torch.cat((torch.zeros(2, 1), REGIONS[0, :2]), dim=1)
    expected = whole.res5(roi_align(features, rois, (6, 6), 1 / 16, 2))
    found = head.region_features([features], REGIONS, VALID)
    assert found.shape == (1, 3, 256, 3, 3)
    torch.testing.assert_close(found[0, :2], expected, atol=1e-5, rtol=1e-4)
    hidden = head.hidden([features], REGIONS, VALID)
    torch.testing.assert_close(hidden[0, :2], expected.mean(dim=(2, 3)), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_the_first_roi_align_pools_half_a_cell_further() -> None:
    """As torchvision's `roi_align` is documented: pixels' corners are taken for their centres."""
    head = build(SMALL["faster_rcnn_c4"]).eval().box_head
    features = torch.randn(1, 128, 6, 6)
    expected = head.hidden([features], REGIONS + 8.0, VALID)  # half of a stride of 16
    assert not torch.allclose(head.hidden([features], REGIONS, VALID), expected)
    head.aligned = False
    torch.testing.assert_close(head.hidden([features], REGIONS, VALID)[0, :2], expected[0, :2])


def test_masks_are_trained_on_the_features_of_the_boxes(
    make_batch: Callable[..., Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Res5 runs once in training, and the losses are those of computing it for the positive regions anew."""
    model, batch = build(SMALL["mask_rcnn_c4"]), make_batch()
    losses, features, regions = model._first_losses(batch)
    slots = regions.positive.shape[1]
    anew = model.box_head.region_features(features, regions.boxes[:, :slots], regions.positive).flatten(0, 1)
    losses |= model.mask_head.losses_of(anew, regions, batch.targets.polygons)
    calls = []
    region_features = Res5Head.region_features
    monkeypatch.setattr(Res5Head, "region_features", lambda *args: calls.append(1) or region_features(*args))
    found = model.losses(batch)
    assert len(calls) == 1 and list(found) == list(losses)
    for name, loss in losses.items():
        torch.testing.assert_close(found[name], loss, msg=name)


def test_masks_of_detections(make_batch: Callable[..., Batch]) -> None:
    model, batch = build(SMALL["mask_rcnn_c4"]).eval(), make_batch()
    with torch.inference_mode():
        found = model.detect(batch)
        features = model.features(batch.images)
        expected = model.masks_of(features, found.boxes_xyxy, found.labels, found.valid)
    assert model.predicts == ("boxes", "masks") and found.masks.shape == (2, 10, 6, 6)  # 6 x 6 pooled, halved, doubled
    torch.testing.assert_close(found.masks, expected)
    assert found.valid.any() and not found.masks[~found.valid].any()
    with pytest.raises(ValueError, match="no outlines"):
        model.losses(replace(batch, targets=replace(batch.targets, polygons=None)))


def test_res5_starts_from_the_backbone_s_file_and_is_trained(tmp_path: Path) -> None:
    """Its norms are fixed as the backbone's are, its convolutions never."""
    resnet = {**C4["backbone"], "out_features": ["res5"]}
    plain = {**C4, "backbone": resnet, "box_head": {"fc_channels": 8}}
    source = build(FasterRCNN(**plain | {"backbone": {**resnet, "norm": "bn"}})).backbone.state_dict()
    source = {name: torch.full(tensor.shape, 0.25) for name, tensor in source.items() if "num_batches" not in name}
    file = tmp_path / "resnet.safetensors"
    save_file(source, file)
    frozen = {**C4["backbone"], "norm": "frozen_bn", "frozen_stages": 5, "weights": str(file)}
    model = build(FasterRCNN(**C4 | {"backbone": frozen}))
    for part in (model.backbone, model.box_head.res5):
        assert all((tensor == 0.25).all() for tensor in part.state_dict().values())
        assert any(isinstance(module, FrozenBatchNorm) for module in part.modules())
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    assert all(parameter.requires_grad for parameter in model.box_head.parameters())
    build(FasterRCNN(**C4 | {"backbone": {**frozen, "weights": "absent"}}), load_weights=False)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"backbone": {**C4["backbone"], "out_features": ["res5"]}}, r"out_features=\[res4\]"),
        ({"backbone": {**C4["backbone"], "depth": 18}}, "depth=50 or more"),
        ({"neck": {"type": "fpn"}}, r"neck\.type=none"),
        ({"mask_head": {"pooler_resolution": 7}}, "no effect with box_head.type=res5"),
        ({"backbone": {**C4["backbone"], "res5_dilation": 2}}, "not built: out_features ends with res4"),
        ({"backbone": {**C4["backbone"], "deform_stages": [False, False, False, True]}}, "not built"),
        ({"backbone": {**C4["backbone"], "deform_modulated": True}}, "need a stage in backbone.deform_stages"),
        (
            {"backbone": {**C4["backbone"], "deform_stages": [True, False, False, False], "deform_groups": 3}},
            "deform_groups=3 does not divide 8 channels",
        ),
        ({"backbone": {**C4["backbone"], "depth": 34, "groups": 2}}, r"backbone\.depth=34 has none"),
    ],
)
def test_settings_that_cannot_work_are_refused(sections: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MaskRCNN(**C4 | sections)


def test_images_of_any_size_do_without_a_pyramid(make_batch: Callable[..., Batch]) -> None:
    model, batch = build(SMALL["mask_rcnn_c4"]).eval(), make_batch(size=50)
    assert model.size_divisor == 1
    with torch.inference_mode():
        assert model.features(batch.images)[0].shape[-2:] == (4, 4)
        model.detect(batch)
