"""`detcore convert torchvision`: older names, labels, and what is refused."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

import detcore
from detcore.cli import main
from detcore.convert import from_torchvision
from detcore.convert.coco_classes import COCO_CLASSES
from detcore.convert.torchvision import UNUSED_COCO_IDS


def small_mask_rcnn(outputs: int) -> dict[str, Tensor]:
    backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
    return MaskRCNN(backbone, num_classes=outputs).state_dict()


def retinanet(outputs: int) -> dict[str, Tensor]:
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4], extra_blocks=LastLevelP6P7(256, 256)
    )
    return RetinaNet(backbone, num_classes=outputs).state_dict()


@pytest.fixture(scope="module")
def coco() -> dict[str, Tensor]:
    return small_mask_rcnn(91)


def test_published_folder(coco: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(coco, tmp_path / "mask.pth")
    assert main(["convert", "torchvision", str(tmp_path / "mask.pth"), "--out", str(tmp_path / "ours")]) == 0
    said = capsys.readouterr()
    assert "mask_rcnn" in said.out and "eps 0" in said.err and "80 classes" in said.err
    predictor = detcore.load(tmp_path / "ours")
    assert predictor.labels == COCO_CLASSES


def test_classes_are_in_order_and_the_background_is_last(coco: dict[str, Tensor]) -> None:
    model = from_torchvision(coco, name="ours").model
    kept = [index for index in range(1, 91) if index not in UNUSED_COCO_IDS]
    predictor = "roi_heads.box_predictor."
    assert torch.equal(model.box_head.class_logits.weight, coco[f"{predictor}cls_score.weight"][[*kept, 0]])
    boxes = coco[f"{predictor}bbox_pred.bias"].view(91, 4)[kept]
    assert torch.equal(model.box_head.box_offsets.bias.view(80, 4), boxes)


def test_coco_ids() -> None:
    from torchvision.models._meta import _COCO_CATEGORIES

    kept = [name for index, name in enumerate(_COCO_CATEGORIES) if index and index not in UNUSED_COCO_IDS]
    assert tuple(kept) == COCO_CLASSES


def test_frozen_norms_keep_their_function(coco: dict[str, Tensor]) -> None:
    state = dict(coco)
    name = "backbone.body.layer1.0.bn1."
    state[f"{name}running_var"] = torch.full_like(state[f"{name}running_var"], 3e-6)
    scale, _ = from_torchvision(state, name="ours").model.backbone.res2[0].conv1.norm.scale_and_shift()
    torch.testing.assert_close(scale, state[f"{name}weight"] * 3e-6**-0.5)  # published with eps 0


def test_older_names(coco: dict[str, Tensor]) -> None:
    """As files from before version 2 of torchvision's FPN, RPNHead, MaskRCNNHeads and RetinaNet's towers have them."""
    older = {}
    for name, tensor in coco.items():
        if "_blocks." in name:
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        if name.startswith("roi_heads.mask_head."):
            number = int(name.split(".")[2])
            name = name.replace(f"mask_head.{number}.0", f"mask_head.mask_fcn{number + 1}")
        older[name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = tensor
    assert "backbone.fpn.inner_blocks.0.weight" in older and "roi_heads.mask_head.mask_fcn1.bias" in older
    assert_same(older, coco)
    today = retinanet(4)
    older = {}
    for name, tensor in today.items():
        if "_head.conv." in name:
            number = int(name.split(".")[3])
            name = name.replace(f"conv.{number}.0", f"conv.{2 * number}")
        older[name] = tensor
    assert "head.regression_head.conv.6.weight" in older
    assert_same(older, today)


def assert_same(older: dict[str, Tensor], today: dict[str, Tensor]) -> None:
    first, second = (from_torchvision(state, name="ours").model.state_dict() for state in (older, today))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_labels() -> None:
    few = small_mask_rcnn(4)
    assert from_torchvision(few, name="ours").labels == ("1", "2", "3")
    assert from_torchvision(few, name="ours", labels=["a", "b", "c"]).labels == ("a", "b", "c")
    with pytest.raises(ValueError, match="4 labels for a model of 3 classes"):
        from_torchvision(few, name="ours", labels=["a", "b", "c", "d"])
    dense = retinanet(4)  # 0 may be a class there, or none
    assert from_torchvision(dense, name="ours").labels == ("0", "1", "2", "3")
    assert from_torchvision(dense, name="ours", labels=["a", "b", "c"]).config.num_classes == 3


def test_what_has_no_counterpart_is_refused(coco: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only these are converted"):
        from_torchvision({"backbone.features.0.weight": torch.zeros(1)}, name="ours")
    with pytest.raises(ValueError, match=r"no counterpart here: roi_heads\.extra\.weight"):
        from_torchvision({**coco, "roi_heads.extra.weight": torch.zeros(1)}, name="ours")
    three_levels = resnet_fpn_backbone(backbone_name="resnet18", weights=None, returned_layers=[2, 3, 4])
    with pytest.raises(ValueError, match="over 3 stages"):
        from_torchvision(FasterRCNN(three_levels, num_classes=2).state_dict(), name="ours")
    torch.save(coco, tmp_path / "mask.pth")
    arguments = ["convert", "torchvision", str(tmp_path / "mask.pth"), "--out", str(tmp_path / "ours")]
    assert main([*arguments, "--config", "config.yaml"]) == 2
