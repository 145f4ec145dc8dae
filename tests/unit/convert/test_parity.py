"""What every family has to share with Detectron2: features, proposals and losses. Detections are in the other files."""

from pathlib import Path

import pytest
import torch
from detectron2_reference import Reference, assert_boxes_equal_up_to_ties, read_reference

FIXTURES = (
    "cascade_mask_rcnn_fpn",
    "faster_rcnn_c4",
    "faster_rcnn_dc5",
    "faster_rcnn_fpn",
    "keypoint_rcnn_fpn",
    "mask_rcnn_fpn",
    "panoptic_fpn",
    "retinanet_fpn",
    "rotated_faster_rcnn_fpn",
    "rpn_fpn",
)


@pytest.fixture(scope="module", params=FIXTURES)
def reference(request: pytest.FixtureRequest, shared: Path) -> Reference:
    return read_reference(shared, request.param)


@torch.inference_mode()
def test_features(reference: Reference) -> None:
    levels = sorted(name for name in reference.tensors if name.startswith("feat."))
    features = reference.model.features(reference.batch.images)
    for level, feature in zip(levels, features, strict=True):
        theirs = reference.tensors[level]
        assert (feature - theirs).abs().max() <= 1e-4 * theirs.abs().max(), level


@torch.inference_mode()
def test_proposals(reference: Reference) -> None:
    boxes = reference.tensors.get("proposals.boxes")
    if boxes is None or boxes.shape[1] == 5:
        pytest.skip("a detector without upright proposals")
    model, logits = reference.model, reference.tensors["proposals.logits"]
    predictions = model.rpn(model.features(reference.batch.images))
    ours = model.rpn.propose(predictions, reference.batch.image_sizes, model.rpn.test_limits)
    found = ours.valid[0]
    assert found.sum() == len(boxes)
    torch.testing.assert_close(ours.logits[0][found], logits, atol=1e-4, rtol=0)
    assert_boxes_equal_up_to_ties(ours.boxes[0][found], ours.logits[0][found], boxes, logits)


def test_losses(reference: Reference) -> None:
    reference.model.train()
    ours = reference.model.losses(reference.batch)
    reference.model.eval()
    assert ours.keys() == reference.losses.keys()
    for name, value in reference.losses.items():
        assert ours[name].item() == pytest.approx(value, rel=1e-4), name
