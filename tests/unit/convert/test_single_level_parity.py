"""Detectors without a pyramid, and proposals alone, with Detectron2's weights against Detectron2's numbers."""

from pathlib import Path

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
def test_features(name: str, reference: Reference) -> None:
    features = reference.model.features(reference.batch.images)
    for level, feature in zip(FEATURES[name], features, strict=True):
        theirs = reference.tensors[f"feat.{level}"]
        assert (feature - theirs).abs().max() <= 1e-4 * theirs.abs().max(), level


@torch.inference_mode()
def test_proposals(reference: Reference) -> None:
    rpn = reference.model.rpn
    predictions = rpn(reference.model.features(reference.batch.images))
    ours = rpn.propose(predictions, reference.batch.image_sizes, rpn.test_limits)
    boxes, logits = reference.tensors["proposals.boxes"], reference.tensors["proposals.logits"]
    found = ours.valid[0]
    assert found.sum() == len(boxes)
    torch.testing.assert_close(ours.logits[0][found], logits, atol=1e-4, rtol=0)
    assert_boxes_equal_up_to_ties(ours.boxes_xyxy[0][found], ours.logits[0][found], boxes, logits)


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


def test_losses(reference: Reference) -> None:
    reference.model.train()
    ours = reference.model.losses(reference.batch)
    reference.model.eval()
    assert ours.keys() == reference.losses.keys()
    for key, value in reference.losses.items():
        assert ours[key].item() == pytest.approx(value, rel=1e-4), key
