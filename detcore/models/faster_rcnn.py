"""Faster R-CNN, with a feature pyramid or without: arXiv:1506.01497 and arXiv:1612.03144."""

from dataclasses import replace

import torch
from torch import Tensor

from detcore.models.backbones.backbone import Backbone, Neck
from detcore.models.heads.box_head import RegionHead, RegionPredictions
from detcore.models.heads.cascade_head import CascadeHead
from detcore.models.proposals.roi_sampling import RegionSampler, TrainingRegions
from detcore.models.proposals.rpn import RPN, AnchorPredictions, Proposals
from detcore.models.proposals.stage import ProposalStage
from detcore.models.selection import DetectionLimits, select_detections
from detcore.structures.batch import Batch, Detections, Targets

MAX_CANDIDATES = 10_000
"""Scored boxes of an image that go into non-maximum suppression, the best. Above a threshold of 0.05 there are hundreds
at most: of a proposal, whose scores add up to one, no more than 20 classes. Only thresholds far below, as for LVIS with
its 1203 classes, leave more."""

Dense = tuple[list[Tensor], AnchorPredictions]
"""What works on whole feature maps: the neck's levels, the RPN's predictions."""


class FasterRCNN(ProposalStage):
    """Proposals, then a class and a box for each.

    Args:
        backbone, neck: images -> features; regions are pooled from the neck's first levels, as it says.
        rpn, box_head: proposals from all levels; classes and boxes of regions.
        region_sampler: draws the regions that the box head trains on.
        limits: of the detections.
        train_on_predicted_boxes: whether what is said of regions besides their boxes trains in the boxes that the box
            head predicts, or in the proposals. For a box head of one stage.
    """

    predicts: tuple[str, ...] = ("boxes",)

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Neck,
        rpn: RPN,
        box_head: RegionHead | CascadeHead,
        region_sampler: RegionSampler,
        limits: DetectionLimits,
        train_on_predicted_boxes: bool = False,
    ) -> None:
        super().__init__(backbone=backbone, neck=neck, rpn=rpn)
        self.box_head = box_head
        self.region_sampler, self.limits = region_sampler, limits
        self.train_on_predicted_boxes = train_on_predicted_boxes
        self.num_classes: int = box_head.num_classes

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """loss_rpn_cls, loss_rpn_loc and the box head's: 0-dim, divided by counts over all ranks."""
        losses, _, _ = self._first_losses(batch)
        return losses

    def _first_losses(
        self, batch: Batch, dense: Dense | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor], TrainingRegions]:
        """Of both stages; with the levels that regions are pooled from, and the regions that more is said of.

        `dense` is what the dense part gave, where it was run already.
        """
        losses, features, regions = self._proposal_losses(batch, dense)
        losses |= self.box_head.losses(features, regions, batch)
        if self.train_on_predicted_boxes:
            regions = self._in_predicted_boxes(features, regions)
        return losses, features, regions

    @torch.no_grad()
    def _in_predicted_boxes(self, features: list[Tensor], regions: TrainingRegions) -> TrainingRegions:
        """The regions that may be positive, in the box head's boxes for their classes where these are finite."""
        slots = regions.positive.shape[1]
        boxes, labels = regions.boxes[:, :slots], regions.labels[:, :slots]
        proposals = Proposals(boxes, torch.zeros_like(boxes[..., 0]), regions.positive, torch.zeros_like(labels))
        index = torch.arange(slots, device=boxes.device).expand_as(labels)
        predicted = self.box_head.predict(features, proposals).boxes(index, labels.clamp(max=self.num_classes - 1))
        usable = predicted.isfinite().all(dim=-1, keepdim=True) & regions.positive[..., None]
        moved = torch.where(usable, predicted.to(boxes.dtype), boxes)
        return replace(regions, boxes=torch.cat((moved, regions.boxes[:, slots:]), dim=1))

    def _proposal_losses(
        self, batch: Batch, dense: Dense | None = None
    ) -> tuple[dict[str, Tensor], list[Tensor], TrainingRegions]:
        """Of the first stage; and what the second one trains on."""
        targets = required_targets(batch)
        if dense is None:
            self.backbone.draw(batch)
        features, predictions = dense or self.dense(batch.images)
        losses = self.rpn.losses(predictions, batch, targets)
        proposals = self.rpn.propose(predictions, batch.image_sizes, self.rpn.train_limits)
        regions = self.region_sampler(proposals, batch, targets)
        return losses, features[: self.neck.num_region_levels], regions

    def detect(self, batch: Batch) -> Detections:
        """What is seen in each image; the same whatever other images are in the batch."""
        detections, features = self._detect_boxes(batch)
        return self.describe(features, detections)

    def describe(self, features: list[Tensor], detections: Detections) -> Detections:
        """Detections with what this detector says of an object beside its box: here nothing; masks in Mask R-CNN.

        Args:
            features: the levels that regions are pooled from.
            detections: boxes and classes, found in these features or elsewhere.
        """
        return detections

    def describe_boxes(self, batch: Batch, detections: Detections) -> Detections:
        """`describe` of boxes found elsewhere, such as in other views of the same images.

        Args:
            batch: the images.
            detections: boxes, in pixels of `batch`, and classes.
        """
        return self.describe(self.features(batch.images)[: self.neck.num_region_levels], detections)

    def _detect_boxes(self, batch: Batch, dense: Dense | None = None) -> tuple[Detections, list[Tensor]]:
        features, predictions = dense or self.dense(batch.images)
        proposals = self.rpn.propose(predictions, batch.image_sizes, self.rpn.test_limits)
        features = features[: self.neck.num_region_levels]
        return self._select(self.box_head.predict(features, proposals), proposals.valid, batch), features

    def _select(self, predictions: RegionPredictions, valid: Tensor, batch: Batch) -> Detections:
        """Of all regions and classes the best that do not overlap within a class."""
        limits, num_classes, geometry = self.limits, self.num_classes, self.rpn.geometry
        usable = valid & batch.real[:, None]
        scores = predictions.scores
        scores = torch.where(usable[..., None] & (scores > limits.score_threshold), scores, -1.0).flatten(1)
        scores, index = scores.topk(torch.sym_min(scores.shape[1], MAX_CANDIDATES), dim=1)
        labels = index % num_classes
        boxes = predictions.boxes(index // num_classes, labels)
        finite = boxes.isfinite().all(dim=-1)
        boxes = geometry.clip(torch.where(finite[..., None], boxes, 0.0), batch.image_sizes)
        usable = finite & (scores > 0) & geometry.larger_than(boxes, 0.0)
        return select_detections(
            boxes, scores, labels, usable, limits, geometry=geometry, image_sizes=batch.image_sizes
        )[0]


def required_targets(batch: Batch) -> Targets:
    """The ground truth; ValueError where the batch has none."""
    if batch.targets is None:
        raise ValueError("this batch has no targets: losses need a split with ground truth")
    return batch.targets
