"""Keypoint R-CNN's loss against its definition, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_detectors import KEYPOINT_HEAD, MASK_HEAD, SMALL_RCNN
from torch import nn

from detcore.config.model import KeypointRCNN
from detcore.models import build_model
from detcore.structures.batch import Batch


def build(*, mask_head: dict[str, Any] | None = None, **head: object) -> nn.Module:
    torch.manual_seed(0)
    section = KeypointRCNN(**SMALL_RCNN, keypoint_head={**KEYPOINT_HEAD, **head}, mask_head=mask_head)
    return build_model(section, num_classes=3).double()


def in_double(batch: Batch) -> Batch:
    return batch.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


@pytest.fixture
def batch(make_batch: Callable[..., Batch]) -> Batch:
    """With keypoints of which some are not labelled."""
    batch = in_double(make_batch())
    keypoints = batch.targets.keypoints.clone()
    keypoints[:, 1, 2:, 2] = 0.0
    keypoints[:, 0, 0, 2] = 1.0  # hidden, but labelled
    return replace(batch, targets=replace(batch.targets, keypoints=keypoints))


@pytest.mark.parametrize("normalizer", ["visible", "static"])
def test_loss_is_the_cross_entropy_over_a_heatmap_s_pixels(normalizer: str, batch: Batch) -> None:
    model = build(normalizer=normalizer, loss_weight=3.0)
    found = model.losses(batch)["loss_keypoint"]
    _, features, regions = model._first_losses(batch)
    slots = regions.positive.shape[1]
    heatmaps = model.keypoint_head(features, regions.boxes[:, :slots], regions.positive).unflatten(0, (2, slots))
    total, count, size = 0.0, 0, heatmaps.shape[-1]
    for image, slot in regions.positive.nonzero().tolist():
        x1, y1, x2, y2 = regions.boxes[image, slot].tolist()
        keypoints = batch.targets.keypoints[image, regions.objects[image, slot]]
        for point, (x, y, labelled) in enumerate(keypoints.tolist()):
            if labelled and x1 <= x <= x2 and y1 <= y <= y2:
                # In this order of operations: some points lie on the edge between two pixels.
                column = min(int((x - x1) * (1 / (x2 - x1) * size)), size - 1)
                row = min(int((y - y1) * (1 / (y2 - y1) * size)), size - 1)
                total -= F.log_softmax(heatmaps[image, slot, point].flatten(), dim=0)[row * size + column].item()
                count += 1
    assert 0 < count < int(regions.positive.sum()) * 5
    # Statically: in 2 images, half of 16 samples with 5 keypoints each.
    divisor = count if normalizer == "visible" else 2 * 8 * 5
    assert found.item() == pytest.approx(3.0 * total / divisor)


def test_no_labelled_keypoint_is_no_loss(batch: Batch) -> None:
    keypoints = batch.targets.keypoints * torch.tensor([1.0, 1.0, 0.0])
    model = build()
    losses = model.losses(replace(batch, targets=replace(batch.targets, keypoints=keypoints)))
    losses["loss_keypoint"].backward()
    assert losses["loss_keypoint"].item() == 0.0
    assert all(p.grad is not None and not p.grad.any() for p in model.keypoint_head.parameters())


def test_detections_have_keypoints_inside_their_boxes(batch: Batch) -> None:
    model = build(mask_head=MASK_HEAD).eval()
    found = model.detect(batch)
    assert model.predicts == ("boxes", "masks", "keypoints") and build().predicts == ("boxes", "keypoints")
    assert found.keypoints.shape == (2, 10, 5, 3) and found.masks is not None
    low, high = found.boxes_xyxy[:, :, None, :2], found.boxes_xyxy[:, :, None, 2:]
    inside = ((found.keypoints[..., :2] >= low) & (found.keypoints[..., :2] <= high)).all(dim=-1)
    assert found.valid.any() and inside[found.valid].all()
    assert ((found.keypoints[..., 2] > 0) == found.valid[..., None]).all()


def test_what_is_refused(batch: Batch) -> None:
    with pytest.raises(ValueError, match="these targets have no keypoints"):
        build().losses(replace(batch, targets=replace(batch.targets, keypoints=None)))
    with pytest.raises(ValueError, match=r"have 5 keypoints, the model 17: set model\.keypoint_head\.num_keypoints=5"):
        build(num_keypoints=17).losses(batch)
    with pytest.raises(ValueError, match=r"no outlines: set model\.mask_head=null"):
        build(mask_head=MASK_HEAD).losses(replace(batch, targets=replace(batch.targets, polygons=None)))
