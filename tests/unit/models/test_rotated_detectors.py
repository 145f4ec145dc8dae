"""What the detectors of rotated boxes have of their own; expected losses by their definition on whole matrices."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from small_detectors import NUM_CLASSES, SMALL
from torch import nn

from detcore.models import build_model
from detcore.models.box_geometry import ROTATED, UPRIGHT
from detcore.ops import box_iou_rotated
from detcore.structures import boxes
from detcore.structures.batch import Batch
from detcore.structures.rotated_boxes import RotatedBoxCoder, upright_around

ROTATED_NAMES = ["rotated_faster_rcnn", "rotated_retinanet"]


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(SMALL[name], num_classes=NUM_CLASSES)


@pytest.mark.parametrize("name", ROTATED_NAMES)
def test_detections_are_rotated_boxes_and_the_upright_ones_around_them(
    name: str, make_batch: Callable[..., Batch]
) -> None:
    batch = make_batch()
    with torch.inference_mode():
        found = build(name).eval().detect(batch)
    assert found.boxes_xywha is not None and found.valid.any()
    rotated = found.boxes_xywha
    assert (rotated[..., 2:4][found.valid] > 0).all() and (rotated[..., 4].abs() <= 180).all()
    assert rotated[..., 4].any()
    torch.testing.assert_close(found.boxes_xyxy, boxes.clip(upright_around(rotated), batch.image_sizes))
    assert not rotated[~found.valid].any()


@pytest.mark.parametrize("name", ROTATED_NAMES)
def test_detections_of_a_class_do_not_overlap(name: str, make_batch: Callable[..., Batch]) -> None:
    model = build(name).eval()
    with torch.inference_mode():
        found = model.detect(make_batch(images=1))
    kept = found.boxes_xywha[0][found.valid[0]]
    labels = found.labels[0][found.valid[0]]
    overlap = box_iou_rotated(kept, kept).fill_diagonal_(0)
    assert (overlap[labels[:, None] == labels] <= model.limits.nms_threshold + 1e-6).all()


@pytest.mark.parametrize("name", ROTATED_NAMES)
def test_targets_without_angles_are_refused(name: str, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    upright = replace(batch, targets=replace(batch.targets, boxes_xywha=None))
    with pytest.raises(ValueError, match="no rotated boxes"):
        build(name).losses(upright)


@pytest.mark.parametrize("name", ROTATED_NAMES)
def test_padding_counts_for_nothing(
    name: str, make_batch: Callable[..., Batch], rows_of: Callable[[Batch, list[int]], Batch]
) -> None:
    batch = make_batch(images=2, capacity=4, objects=2)
    targets = batch.targets
    junk = torch.where(targets.valid[..., None], targets.boxes_xywha, torch.tensor([32.0, 32, 30, 30, 20]))
    short = replace(batch, real=torch.tensor([True, False]))
    for one, other in (
        (batch, replace(batch, targets=replace(targets, boxes_xywha=junk))),
        (rows_of(batch, [0]), short),
    ):
        expected, found = build(name).losses(one), build(name).losses(other)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, msg=key)


def test_retinanet_s_losses_by_their_definition(make_batch: Callable[..., Batch]) -> None:
    model, batch = build("rotated_retinanet").eval(), make_batch()
    predictions, targets = model.dense(batch.images), batch.targets
    losses = model.losses(batch)
    anchors, coder = predictions.anchors, RotatedBoxCoder()
    class_loss = box_loss = positives = 0
    for image in range(2):
        truth, labels = targets.boxes_xywha[image, :3], targets.labels[image, :3]
        overlap = box_iou_rotated(anchors, truth)
        best, matched = overlap.max(dim=1)
        positive = best >= 0.5
        positive[overlap.argmax(dim=0)] = True
        counted = positive | (best < 0.4)
        wanted = torch.zeros(len(anchors), NUM_CLASSES)
        wanted[positive, labels[matched[positive]]] = 1
        p = predictions.logits[image].sigmoid()
        likeness = torch.where(wanted == 1, p, 1 - p)
        weight = torch.where(wanted == 1, 0.25, 0.75)
        class_loss += (-weight * (1 - likeness) ** 2 * likeness.log())[counted].sum()
        offsets = coder.encode(anchors[positive], truth[matched[positive]])
        box_loss += (predictions.offsets[image][positive] - offsets).abs().sum()
        positives += positive.sum()
    # Out of training mode the divisor is the number of positives.
    torch.testing.assert_close(losses["loss_cls"], class_loss / positives)
    torch.testing.assert_close(losses["loss_box_reg"], box_loss / positives)


def test_the_two_geometries_offer_the_same() -> None:
    assert (UPRIGHT.numbers, ROTATED.numbers) == (4, 5)
    for geometry in (UPRIGHT, ROTATED):
        box = torch.tensor([[[8.0, 8, 20, 16, 0][: geometry.numbers]]])
        detected = geometry.detected(box, torch.tensor([[64, 64]]))
        assert detected["boxes_xyxy"].shape == (1, 1, 4)
