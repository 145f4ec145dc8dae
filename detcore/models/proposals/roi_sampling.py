"""Which proposals the second stage trains on: Fast R-CNN, arXiv:1504.08083, section 2.3."""

from dataclasses import dataclass

import torch
from torch import Tensor

from detcore.models.box_geometry import UPRIGHT, BoxGeometry
from detcore.models.proposals.rpn import Proposals
from detcore.models.proposals.sampler import sample_balanced
from detcore.ops import keyed_uniform, match_anchors
from detcore.structures.batch import Batch, Targets, TensorStruct
from detcore.structures.boxes import rows_at

RANDOM_SITE = 2
"""Keys this module's random numbers; every place that draws has its own."""


@dataclass(frozen=True)
class TrainingRegions(TensorStruct):
    """Regions with what they should be told to be, positives first.

    Attributes:
        boxes: (B, K, 4) xyxy, or (B, K, 5) xywha of a rotated detector; 0 where padded.
        labels: (B, K) int64: the class, or the number of classes for background and padding.
        valid: (B, K) bool.
        positive: (B, P) bool, of the first P slots, which alone may be positive.
        objects: (B, P) int64, the targets' objects that they matched.
        object_boxes: (B, P, 4 or 5), of these objects.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    positive: Tensor
    objects: Tensor
    object_boxes: Tensor


@torch.no_grad()
def match_regions(
    boxes_xyxy: Tensor, valid: Tensor, targets: Targets, *, positive_iou: float, num_classes: int
) -> TrainingRegions:
    """All regions, in their order, each told what the object that it overlaps most says: none is drawn or left out.

    Args:
        boxes_xyxy, valid: (B, K, 4) and (B, K) bool.
        targets: the objects.
        positive_iou: a region at or above it is positive, below it background.
        num_classes: without the background.

    Returns:
        Regions any slot of which may be positive.
    """
    target_boxes = targets.boxes_xyxy.to(boxes_xyxy.dtype)
    thresholds = (positive_iou, positive_iou)
    objects, status = match_anchors(boxes_xyxy, target_boxes, targets.valid, thresholds, allow_low_quality=False)
    positive = valid & (status == 1)
    return TrainingRegions(
        boxes=boxes_xyxy,
        labels=torch.where(positive, targets.labels.gather(1, objects), num_classes),
        valid=valid,
        positive=positive,
        objects=objects,
        object_boxes=target_boxes.gather(1, objects[..., None].expand(-1, -1, 4)),
    )


@dataclass(frozen=True, kw_only=True)
class RegionSampler:
    """Matches proposals with objects and draws a balanced set of them.

    Attributes:
        num_classes: without the background.
        samples_per_image, positive_fraction: see `sample_balanced`.
        positive_iou: a proposal at or above it is positive, below it negative.
        append_ground_truth: the objects' own boxes join the proposals, so that there are positives from the start.
        geometry: the kind of boxes.
    """

    num_classes: int
    samples_per_image: int
    positive_fraction: float
    positive_iou: float
    append_ground_truth: bool
    geometry: BoxGeometry = UPRIGHT

    @torch.no_grad()
    def __call__(self, proposals: Proposals, batch: Batch, targets: Targets) -> TrainingRegions:
        boxes, valid, candidates = proposals.boxes, proposals.valid, proposals.anchors
        target_boxes = self.geometry.ground_truth(targets).to(boxes.dtype)
        if self.append_ground_truth:
            boxes = torch.cat((boxes, target_boxes), dim=1)
            valid = torch.cat((valid, targets.valid), dim=1)
            # Negative, as no anchor is.
            objects = -1 - torch.arange(target_boxes.shape[1], device=boxes.device)
            candidates = torch.cat((candidates, objects.expand(len(boxes), -1)), dim=1)
        thresholds = (self.positive_iou, self.positive_iou)
        matched, status = self.geometry.match(boxes, target_boxes, targets.valid, thresholds, allow_low_quality=False)
        status = torch.where(valid & batch.real[:, None], status, -1)
        seed, step = batch.rng_key.unbind()
        keys = keyed_uniform(seed, step, batch.sample_ids, RANDOM_SITE, candidates)
        samples = sample_balanced(
            status, keys, num_samples=self.samples_per_image, positive_fraction=self.positive_fraction
        )
        objects = matched.gather(1, samples.indices)
        drawn = rows_at(boxes, samples.indices)
        slots = samples.num_positive_slots
        return TrainingRegions(
            boxes=torch.where(samples.valid[..., None], drawn, 0.0),
            labels=torch.where(samples.positive, targets.labels.gather(1, objects), self.num_classes),
            valid=samples.valid,
            positive=samples.positive[:, :slots],
            objects=objects[:, :slots],
            object_boxes=rows_at(target_boxes, objects[:, :slots]),
        )
