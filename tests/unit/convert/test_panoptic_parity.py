"""Panoptic FPN with Detectron2's weights against Detectron2's numbers."""

import json
from pathlib import Path

import pytest
import torch
from detectron2_reference import Reference, assert_boxes_equal_up_to_ties, read_reference

from detcore.convert import model_config
from detcore.ops import panoptic, paste_masks


@pytest.fixture(scope="module")
def reference(shared: Path) -> Reference:
    return read_reference(shared, "panoptic_fpn")


@torch.inference_mode()
def test_detections_and_masks(reference: Reference) -> None:
    ours, tensors = reference.model.detect(reference.batch), reference.tensors
    assert ours.valid[0].sum() == len(tensors["det.boxes"])
    partner = assert_boxes_equal_up_to_ties(
        ours.boxes_xyxy[0], ours.scores[0], tensors["det.boxes"], tensors["det.scores"]
    )
    assert torch.equal(ours.labels[0], tensors["det.classes"][partner])
    size = tuple(reference.batch.image_sizes[0].tolist())
    pasted = paste_masks(ours.masks[0], ours.boxes_xyxy[0], size, 0.5)
    assert (pasted != tensors["det.masks"][partner].bool()).sum() <= 1e-4 * pasted.sum()


@torch.inference_mode()
def test_semantic_logits(reference: Reference) -> None:
    ours = reference.model.detect(reference.batch)
    theirs = reference.tensors["sem_seg.logits"]
    size = reference.batch.images.shape[-2:]
    logits = torch.nn.functional.interpolate(ours.semantic, size, mode="bilinear", align_corners=False)[0]
    logits = logits[:, : theirs.shape[1], : theirs.shape[2]]
    assert (logits - theirs).abs().max() <= 1e-4 * theirs.abs().max()


@torch.inference_mode()
def test_panoptic_map(reference: Reference) -> None:
    model = reference.model
    ids, segments = panoptic(model.detect(reference.batch), reference.batch, 0, model.panoptic_limits)
    theirs = reference.tensors["panoptic.ids"]
    assert (ids != theirs).sum() <= 1e-4 * theirs.numel()
    assert [segment.id for segment in segments] == list(range(1, int(theirs.max()) + 1))
    assert [segment.area for segment in segments] == ids.flatten().bincount()[1:].tolist()


@pytest.mark.parametrize("setting", [{"IN_FEATURES": ["p3", "p4"]}, {"NORM": "BN"}, {"IGNORE_VALUE": 0}])
def test_settings_without_a_counterpart_are_refused(setting: dict[str, object], shared: Path) -> None:
    stated = json.loads((shared / "fixtures" / "detectron2" / "panoptic_fpn.json").read_text())["model"]
    stated["SEM_SEG_HEAD"] |= setting
    with pytest.raises(ValueError, match=next(iter(setting))):
        model_config(stated, name="x")
