"""Keypoint R-CNN with Detectron2's weights against Detectron2's numbers."""

import json
from pathlib import Path

import pytest
import torch
from detectron2_reference import Reference, assert_boxes_equal_up_to_ties, read_reference

from detcore.config.model import KeypointRCNN
from detcore.convert import model_config


@pytest.fixture(scope="module")
def reference(shared: Path) -> Reference:
    return read_reference(shared, "keypoint_rcnn_fpn")


def test_detections_and_keypoints(reference: Reference) -> None:
    ours = reference.model.detect(reference.batch)
    boxes, scores = reference.tensors["det.boxes"], reference.tensors["det.scores"]
    assert ours.valid[0].sum() == len(boxes)
    partner = assert_boxes_equal_up_to_ties(ours.boxes_xyxy[0], ours.scores[0], boxes, scores)
    # Boxes up to 253 pixels long: on a grid of every pixel, of every second and of every third.
    theirs = reference.tensors["det.keypoints"][partner]
    torch.testing.assert_close(ours.keypoints[0, ..., :2], theirs[..., :2], atol=1e-2, rtol=0)
    torch.testing.assert_close(ours.keypoints[0, ..., 2], theirs[..., 2], atol=1e-6, rtol=1e-4)


def test_settings(shared: Path) -> None:
    model = json.loads((shared / "fixtures" / "detectron2" / "keypoint_rcnn_fpn.json").read_text())["model"]
    config = model_config(model, name="parity")
    head = {**model["ROI_KEYPOINT_HEAD"], "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": False, "LOSS_WEIGHT": 4.0}
    other = model_config({**model, "MASK_ON": True, "ROI_KEYPOINT_HEAD": head}, name="parity")
    assert isinstance(other, KeypointRCNN) and other.mask_head is not None
    assert (other.keypoint_head.normalizer, other.keypoint_head.loss_weight) == ("static", 4.0)
    assert config.mask_head is None and config.keypoint_head.conv_channels == (32, 32, 32)
