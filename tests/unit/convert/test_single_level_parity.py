"""Detectors without a pyramid, and proposals alone, with Detectron2's weights against Detectron2's numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2_reference import Reference, assert_boxes_equal_up_to_ties, read_reference

from detcore.config.model import MaskRCNN, ModelConfig
from detcore.convert import from_ours, model_config, rules, to_ours
from detcore.models import build_model

FEATURES = {"faster_rcnn_c4": ["res4"], "faster_rcnn_dc5": ["res5"], "rpn_fpn": ["p2", "p3", "p4", "p5", "p6"]}


@pytest.fixture(scope="module", params=FEATURES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def reference(name: str, shared: Path) -> Reference:
    return read_reference(shared, name)


@torch.inference_mode()
def test_detections(name: str, reference: Reference) -> None:
    ours = reference.model.detect(reference.batch)
    found = ours.valid[0]
    if name == "rpn_fpn":
        boxes, logits = reference.tensors["proposals.boxes"], reference.tensors["proposals.logits"]
        assert found.sum() == len(boxes) and not ours.labels.any()
        assert_boxes_equal_up_to_ties(ours.boxes_xyxy[0][found], ours.scores[0][found], boxes, logits.sigmoid())
        return
    boxes, scores = reference.tensors["det.boxes"], reference.tensors["det.scores"]
    assert found.sum() == len(boxes)
    torch.testing.assert_close(ours.scores[0][found], scores, atol=1e-4, rtol=0)
    partner = assert_boxes_equal_up_to_ties(ours.boxes_xyxy[0][found], ours.scores[0][found], boxes, scores)
    assert torch.equal(ours.labels[0][found], reference.tensors["det.classes"][partner])


def narrow(shared: Path, **changed: dict[str, object]) -> dict[str, Any]:
    """The fixture's settings of a C4 detector, with some of its nodes' keys replaced."""
    published = json.loads((shared / "fixtures" / "detectron2" / "faster_rcnn_c4.json").read_text())["model"]
    for node, keys in changed.items():
        published[node] = {**published[node], **keys}
    return published


PYRAMID = {
    "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
    "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"]},
    "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 16, "FUSE_TYPE": "avg"},
    "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]]},
    "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"]},
    "ROI_BOX_HEAD": {"POOLER_RESOLUTION": 7, "NUM_FC": 1, "FC_DIM": 8},
}
STAGES = ["res2", "res3", "res4", "res5"]
DEFORMED = {"DEFORM_ON_PER_STAGE": [False, True, True, True], "DEFORM_NUM_GROUPS": 2}


def assert_there_and_back(published: dict[str, Any], *, theirs: dict[str, tuple[int, ...]]) -> ModelConfig:
    """Every tensor of the model has a name there, those of `theirs` in that shape, and comes back bit for bit."""
    config = model_config(published, name="parity")
    state = build_model(config, num_classes=config.num_classes, load_weights=False).state_dict()
    converted, unknown = from_ours(state, rules(config))
    assert not unknown
    assert {name: tuple(converted[name].shape) for name in theirs} == theirs
    back, unknown = to_ours(converted, rules(config))
    assert not unknown and back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    return config


@pytest.mark.parametrize(("modulated", "offsets"), [(False, 18), (True, 27)])
def test_deformable_blocks_have_their_offsets_beside_them(shared: Path, modulated: bool, offsets: int) -> None:
    """Detectron2's offsets: for each of its groups, 9 taps with 2 coordinates, and with a factor where modulated."""
    published = narrow(
        shared, RESNETS={**DEFORMED, "OUT_FEATURES": STAGES, "DEFORM_MODULATED": modulated, "NUM_GROUPS": 2}, **PYRAMID
    )
    config = assert_there_and_back(
        published,
        theirs={
            "backbone.bottom_up.res3.0.conv2_offset.weight": (2 * offsets, 32, 3, 3),
            "backbone.bottom_up.res3.0.conv2_offset.bias": (2 * offsets,),
            "backbone.bottom_up.res4.5.conv2.weight": (64, 32, 3, 3),
            "backbone.bottom_up.res4.5.conv2.norm.weight": (64,),
        },
    )
    backbone = config.backbone
    assert (backbone.deform_stages, backbone.deform_groups) == ((False, True, True, True), 2)
    assert backbone.deform_modulated == modulated and config.neck.fuse == "avg"


def test_masks_without_a_pyramid(shared: Path) -> None:
    published = {**narrow(shared, ROI_MASK_HEAD={"CONV_DIM": 24}), "MASK_ON": True}
    theirs = {
        "roi_heads.res5.2.conv3.weight": (256, 64, 1, 1),
        "roi_heads.mask_head.deconv.weight": (256, 24, 2, 2),
        "roi_heads.mask_head.predictor.weight": (5, 24, 1, 1),
    }
    assert isinstance(assert_there_and_back(published, theirs=theirs), MaskRCNN)


def test_proposals_of_several_convolutions(shared: Path) -> None:
    published = narrow(shared, RPN={"CONV_DIMS": [12, -1], "BOUNDARY_THRESH": 0})
    head = "proposal_generator.rpn_head."
    theirs = {
        f"{head}conv.conv0.weight": (12, 128, 3, 3),
        f"{head}conv.conv1.weight": (12, 12, 3, 3),
        f"{head}objectness_logits.weight": (15, 12, 1, 1),
    }
    rpn = assert_there_and_back(published, theirs=theirs).rpn
    assert rpn.conv_channels == (12, None) and rpn.boundary_threshold == 0


def test_basic_blocks(shared: Path) -> None:
    resnet = {"DEPTH": 18, "RES2_OUT_CHANNELS": 8, "OUT_FEATURES": STAGES}
    stage = "backbone.bottom_up.res3."
    theirs = {f"{stage}0.shortcut.weight": (16, 8, 1, 1), f"{stage}1.conv2.weight": (16, 16, 3, 3)}
    assert assert_there_and_back(narrow(shared, RESNETS=resnet, **PYRAMID), theirs=theirs).backbone.depth == 18


@pytest.mark.parametrize(("pooler", "aligned"), [("ROIAlign", False), ("ROIAlignV2", True)])
@pytest.mark.parametrize("fixture", ["faster_rcnn_c4", "mask_rcnn_fpn", "keypoint_rcnn_fpn", "panoptic_fpn"])
def test_each_head_pools_regions_as_it_did_there(shared: Path, fixture: str, pooler: str, aligned: bool) -> None:
    published = json.loads((shared / "fixtures" / "detectron2" / f"{fixture}.json").read_text())["model"]
    for node in ("ROI_BOX_HEAD", "ROI_MASK_HEAD", "ROI_KEYPOINT_HEAD"):
        published[node] = {**published[node], "POOLER_TYPE": pooler}
    config = assert_there_and_back(published, theirs={})
    heads = [getattr(config, name, None) for name in ("box_head", "mask_head", "keypoint_head")]
    pooling = [head.aligned for head in heads if head is not None]
    assert pooling == [aligned] * (1 if fixture == "faster_rcnn_c4" else 2)


def test_other_poolings_of_regions_are_refused(shared: Path) -> None:
    with pytest.raises(ValueError, match=r"ROI_BOX_HEAD\.POOLER_TYPE is 'ROIPool'"):
        model_config(narrow(shared, ROI_BOX_HEAD={"POOLER_TYPE": "ROIPool"}), name="parity")


def test_what_the_second_stage_s_losses_are_is_told_to_res5_too(shared: Path) -> None:
    losses = {"BBOX_REG_LOSS_TYPE": "giou", "BBOX_REG_LOSS_WEIGHT": 10.0, "USE_SIGMOID_CE": True}
    head = model_config(narrow(shared, ROI_BOX_HEAD=losses), name="parity").box_head
    assert (head.type, head.box_loss, head.box_loss_weight, head.class_loss) == ("res5", "giou", 10.0, "sigmoid")
