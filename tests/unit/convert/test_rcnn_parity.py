"""Two-stage detectors with Detectron2's weights against Detectron2's numbers."""

from pathlib import Path

import pytest
import torch
from detectron2_reference import Reference, assert_boxes_equal_up_to_ties, read_reference

from detcore.ops import paste_masks


@pytest.fixture(scope="module", params=["faster_rcnn_fpn", "mask_rcnn_fpn", "cascade_mask_rcnn_fpn"])
def reference(request: pytest.FixtureRequest, shared: Path) -> Reference:
    return read_reference(shared, request.param)


@torch.inference_mode()
def test_detections(reference: Reference) -> None:
    ours = reference.model.detect(reference.batch)
    boxes, scores = reference.tensors["det.boxes"], reference.tensors["det.scores"]
    assert ours.valid[0].sum() == len(boxes)
    torch.testing.assert_close(ours.scores[0], scores, atol=1e-4, rtol=0)
    partner = assert_boxes_equal_up_to_ties(ours.boxes_xyxy[0], ours.scores[0], boxes, scores)
    assert torch.equal(ours.labels[0], reference.tensors["det.classes"][partner])
    if "det.masks" in reference.tensors:
        size = tuple(reference.batch.image_sizes[0].tolist())
        pasted = paste_masks(ours.masks[0], ours.boxes_xyxy[0], size, 0.5)
        differing = pasted != reference.tensors["det.masks"][partner].bool()
        assert differing.sum() <= 1e-4 * pasted.sum()
