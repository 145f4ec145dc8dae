"""RetinaNet's losses against their definition, anchor by anchor, and its detections."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torchvision
from small_detectors import SMALL, SMALL_DENSE
from torch import Tensor, nn

from detcore.config.model import RetinaNet
from detcore.models import build_model
from detcore.structures.batch import Batch
from detcore.structures.boxes import iou


def build(**settings: object) -> nn.Module:
    torch.manual_seed(0)
    neck = {"channels": 16, "top": "p6p7_from_backbone"}
    return build_model(RetinaNet(**{**SMALL_DENSE, "neck": neck, **settings}), num_classes=3).double()


@pytest.fixture
def batch(make_batch: Callable[..., Batch]) -> Batch:
    """Of three images one has no objects and one is none."""
    batch = make_batch(images=4).map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    valid, real = batch.targets.valid.clone(), batch.real.clone()
    valid[2], real[3] = False, False
    return replace(batch, real=real, targets=replace(batch.targets, valid=valid))


def focal(probability: Tensor, positive: Tensor, alpha: float, gamma: float) -> Tensor:
    """arXiv:1708.02002, eq. 5."""
    p_t = torch.where(positive, probability, 1 - probability)
    alpha_t = torch.where(positive, alpha, 1 - alpha)
    return -alpha_t * (1 - p_t) ** gamma * p_t.log()


def expected_losses(model: nn.Module, batch: Batch, box_loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Sums of the class and the box losses, and the number of positives: (3,)."""
    predictions = model.dense(batch.images)
    anchors = predictions.anchors
    total = torch.zeros(3, dtype=torch.float64)
    for image in range(3):
        labels = torch.full((len(anchors),), -1)
        counted = torch.ones(len(anchors), dtype=torch.bool)
        valid = batch.targets.valid[image]
        if valid.any():
            overlap = iou(anchors, batch.targets.boxes_xyxy[image, valid])
            best, matched = overlap.max(dim=1)
            positive = (best >= 0.5) | (overlap == overlap.amax(dim=0)).any(dim=1)
            counted = positive | (best < 0.4)
            labels[positive] = batch.targets.labels[image, matched[positive]]
            boxes = batch.targets.boxes_xyxy[image, matched[positive]]
            total[1] += box_loss(anchors[positive], predictions.offsets[image, positive], boxes).sum()
            total[2] += positive.sum()
        wanted = labels[:, None] == torch.arange(3)
        total[0] += focal(predictions.logits[image].sigmoid(), wanted, 0.25, 2.0)[counted].sum()
    return total


def absolute_offsets(anchors: Tensor, offsets: Tensor, boxes: Tensor) -> Tensor:
    size, box_size = anchors[:, 2:] - anchors[:, :2], boxes[:, 2:] - boxes[:, :2]
    shift = (boxes[:, :2] + boxes[:, 2:] - anchors[:, :2] - anchors[:, 2:]) / 2 / size
    return (offsets - torch.cat((shift, (box_size / size).log()), dim=1)).abs()


def giou(anchors: Tensor, offsets: Tensor, boxes: Tensor) -> Tensor:
    size = anchors[:, 2:] - anchors[:, :2]
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2 + offsets[:, :2] * size
    half = offsets[:, 2:].exp() * size / 2
    return torchvision.ops.generalized_box_iou_loss(torch.cat((centre - half, centre + half), dim=1), boxes)


@pytest.mark.parametrize(("kind", "box_loss"), [("smooth_l1", absolute_offsets), ("giou", giou)])
def test_losses(kind: str, box_loss: Callable[[Tensor, Tensor, Tensor], Tensor], batch: Batch) -> None:
    model = build(box_loss=kind, anchors={"sizes": [[s] for s in (12.0, 20.0, 32.0, 48.0, 64.0)]})
    classes, boxes, positives = expected_losses(model, batch, box_loss).tolist()
    assert positives >= 10
    moved = 0.9 * 100 + 0.1 * positives
    first, again = model.losses(batch), model.losses(batch)
    assert first["loss_cls"].item() == pytest.approx(classes / moved)
    assert first["loss_box_reg"].item() == pytest.approx(boxes / moved)
    assert again["loss_cls"].item() == pytest.approx(classes / (0.9 * moved + 0.1 * positives))
    assert model.state_dict()["divisor.average"].item() == pytest.approx(0.9 * moved + 0.1 * positives)
    plain = build(box_loss=kind, normalizer="batch", anchors={"sizes": [[s] for s in (12.0, 20.0, 32.0, 48.0, 64.0)]})
    assert plain.losses(batch)["loss_cls"].item() == pytest.approx(classes / positives)


def test_classes_start_at_the_prior(batch: Batch) -> None:
    scores = build(head={"num_convs": 1, "prior_probability": 0.1}).dense(batch.images).logits.sigmoid()
    assert scores.mean().item() == pytest.approx(0.1, rel=0.05)


def test_published_anchors() -> None:
    sizes = RetinaNet(**SMALL_DENSE).anchors.sizes
    # arXiv:1708.02002, section 4: areas from 32^2 on P3 to 512^2 on P7, at 2^0, 2^(1/3) and 2^(2/3).
    assert sizes[0] == pytest.approx((32.0, 40.317, 50.797), abs=1e-3)
    assert sizes[4] == pytest.approx((512.0, 645.08, 812.75), abs=1e-2)


def test_statistics_of_a_batch_norm_are_each_level_s_own(batch: Batch) -> None:
    model = build(head={"num_convs": 1, "norm": "bn"})
    model.dense(batch.images)
    means = torch.stack([norm.running_mean for norm in model.head.class_tower[0].norm])
    assert means.shape == (5, 16)
    assert all((means[i] - means[j]).abs().max() > 1e-4 for i in range(5) for j in range(i))


def test_the_best_boxes_of_each_level_meet(make_batch: Callable[..., Batch]) -> None:
    """Detections against a plain loop over levels, and torchvision's suppression."""
    model, batch = build(selection=SMALL["retinanet"].selection.model_dump()).eval(), make_batch()
    batch = batch.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    predictions, found = model.dense(batch.images), model.detect(batch)
    for image in range(len(batch)):
        start, boxes, scores, labels = 0, [], [], []
        for size in predictions.level_sizes:
            level = predictions.logits[image, start : start + size].sigmoid().flatten()
            best, index = level.topk(min(60, len(level)))
            anchor = start + index // 3
            boxes.append(model.decode(predictions.anchors[anchor], predictions.offsets[image, anchor]))
            scores.append(best)
            labels.append(index % 3)
            start += size
        keep = torchvision.ops.batched_nms(torch.cat(boxes), torch.cat(scores), torch.cat(labels), 0.5)[:10]
        size = int(found.valid[image].sum())
        clipped = torch.cat(boxes)[keep].clamp(0, 64)
        kept = (clipped[:, 2:] > clipped[:, :2]).all(dim=1)
        torch.testing.assert_close(found.boxes_xyxy[image, :size], clipped[kept].float())
        torch.testing.assert_close(found.scores[image, :size], torch.cat(scores)[keep][kept].float())
        assert torch.equal(found.labels[image, :size], torch.cat(labels)[keep][kept])


def test_thresholds_must_be_in_order() -> None:
    with pytest.raises(ValueError, match=r"negative_iou=0\.6 is above positive_iou=0\.5"):
        RetinaNet(**SMALL_DENSE, negative_iou=0.6)
