"""Faster R-CNN, with a feature pyramid or without: arXiv:1506.01497 and arXiv:1612.03144."""

from dataclasses import dataclass

import torch
from torch import Tensor

from detcore.models.backbones.backbone import Backbone, Neck
from detcore.models.heads.box_head import RegionHead, RegionPredictions
from detcore.models.proposals.roi_sampling import RegionSampler, TrainingRegions
from detcore.models.proposals.rpn import RPN
from detcore.models.proposals.stage import ProposalStage
from detcore.ops import nms_padded
from detcore.structures.batch import Batch, Detections, Targets
from detcore.structures.boxes import clip, larger_than

MAX_CANDIDATES = 10_000
"""Scored boxes of an image that go into non-maximum suppression. Above the threshold there are hundreds at most: of a
proposal, whose scores add up to one, no more than 20 classes can be above 0.05."""


@dataclass(frozen=True, kw_only=True)
class DetectionLimits:
    """Which detections are kept.

    Attributes:
        score_threshold: scores must be above it.
        nms_threshold: boxes of a class that overlap a better one by more than this IoU are dropped.
        max_detections: of an image, the best.
    """

    score_threshold: float
    nms_threshold: float
    max_detections: int


class FasterRCNN(ProposalStage):
    """Proposals, then a class and a box for each.

    Args:
        backbone, neck: images -> features; regions are pooled from the neck's first levels, as it says.
        rpn, box_head: proposals from all levels; classes and boxes of regions.
        region_sampler: draws the regions that the box head trains on.
        limits: of the detections.
    """

    predicts: tuple[str, ...] = ("boxes",)

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Neck,
        rpn: RPN,
        box_head: RegionHead,
        region_sampler: RegionSampler,
        limits: DetectionLimits,
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, rpn=rpn)
        self.box_head = box_head
        self.region_sampler, self.limits = region_sampler, limits
        self.num_classes: int = box_head.num_classes

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """loss_rpn_cls, loss_rpn_loc and the box head's: 0-dim, divided by counts over all ranks."""
        losses, _, _ = self._first_losses(batch)
        return losses

    def _first_losses(self, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor], TrainingRegions]:
        """Of both stages; with the levels that regions are pooled from, and the regions trained on."""
        losses, features, regions = self._proposal_losses(batch)
        return losses | self.box_head.losses(features, regions, batch), features, regions

    def _proposal_losses(self, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor], TrainingRegions]:
        """Of the first stage; and what the second one trains on."""
        targets = required_targets(batch)
        self.backbone.draw(batch)
        features, predictions = self.dense(batch.images)
        losses = self.rpn.losses(predictions, batch, targets)
        proposals = self.rpn.propose(predictions, batch.image_sizes, self.rpn.train_limits)
        regions = self.region_sampler(proposals, batch, targets)
        return losses, features[: self.neck.num_region_levels], regions

    def detect(self, batch: Batch) -> Detections:
        """What is seen in each image; the same whatever other images are in the batch."""
        return self._detect_boxes(batch)[0]

    def _detect_boxes(self, batch: Batch) -> tuple[Detections, list[Tensor]]:
        features, predictions = self.dense(batch.images)
        proposals = self.rpn.propose(predictions, batch.image_sizes, self.rpn.test_limits)
        features = features[: self.neck.num_region_levels]
        return self._select(self.box_head.predict(features, proposals), proposals.valid, batch), features

    def _select(self, predictions: RegionPredictions, valid: Tensor, batch: Batch) -> Detections:
        """Of all regions and classes the best that do not overlap within a class."""
        limits, num_classes = self.limits, self.num_classes
        usable = valid & batch.real[:, None]
        scores = predictions.scores
        scores = torch.where(usable[..., None] & (scores > limits.score_threshold), scores, -1.0).flatten(1)
        scores, index = scores.topk(min(scores.shape[1], MAX_CANDIDATES), dim=1)
        labels = index % num_classes
        boxes = predictions.boxes(index // num_classes, labels)
        finite = boxes.isfinite().all(dim=-1)
        boxes = clip(torch.where(finite[..., None], boxes, 0.0), batch.image_sizes)
        usable = finite & (scores > 0) & larger_than(boxes, 0.0)
        keep, count = nms_padded(boxes, scores, labels, limits.nms_threshold, limits.max_detections, valid=usable)
        valid = torch.arange(limits.max_detections, device=keep.device) < count[:, None]
        kept = boxes.gather(1, keep[..., None].expand(-1, -1, 4))
        return Detections(
            boxes_xyxy=torch.where(valid[..., None], kept, 0.0).float(),
            scores=torch.where(valid, scores.gather(1, keep), 0.0).float(),
            labels=torch.where(valid, labels.gather(1, keep), 0),
            valid=valid,
        )


def required_targets(batch: Batch) -> Targets:
    """The ground truth; ValueError where the batch has none."""
    if batch.targets is None:
        raise ValueError("this batch has no targets: losses need a split with ground truth")
    return batch.targets
