"""Mask R-CNN with a feature pyramid: arXiv:1703.06870."""

from dataclasses import replace

import torch
from torch import Tensor

from detcore.models.backbones.backbone import Backbone, Neck
from detcore.models.faster_rcnn import Dense, FasterRCNN, required_targets
from detcore.models.heads.box_head import RegionHead
from detcore.models.heads.cascade_head import CascadeHead
from detcore.models.heads.mask_head import MaskHead
from detcore.models.proposals.roi_sampling import RegionSampler
from detcore.models.proposals.rpn import RPN
from detcore.models.selection import DetectionLimits
from detcore.structures.batch import Batch, Detections, Polygons


class MaskRCNN(FasterRCNN):
    """Faster R-CNN whose detections have masks. `mask_head` is trained on the positive regions."""

    predicts: tuple[str, ...] = ("boxes", "masks")

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Neck,
        rpn: RPN,
        box_head: RegionHead | CascadeHead,
        mask_head: MaskHead,
        region_sampler: RegionSampler,
        limits: DetectionLimits,
        train_on_predicted_boxes: bool = False,
    ) -> None:
        super().__init__(
            backbone=backbone,
            neck=neck,
            rpn=rpn,
            box_head=box_head,
            region_sampler=region_sampler,
            limits=limits,
            train_on_predicted_boxes=train_on_predicted_boxes,
        )
        self.mask_head = mask_head

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of Faster R-CNN and loss_mask. Raises ValueError where the targets have no outlines."""
        return self._instance_losses(batch)

    def _instance_losses(self, batch: Batch, dense: Dense | None = None) -> dict[str, Tensor]:
        """`losses`; `dense` is what the dense part gave, where it was run already."""
        polygons = required_polygons(batch)
        losses, features, regions = self._first_losses(batch, dense)
        return losses | self.mask_head.losses(features, regions, polygons)

    def describe(self, features: list[Tensor], detections: Detections) -> Detections:
        """Detections with masks."""
        boxes = detections.boxes_xyxy.to(torch.promote_types(features[0].dtype, torch.float32))
        return replace(detections, masks=self.masks_of(features, boxes, detections.labels, detections.valid))

    def masks_of(self, features: list[Tensor], boxes_xyxy: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
        """Masks in boxes that were found here or elsewhere.

        Args:
            features: the levels that regions are pooled from.
            boxes_xyxy, labels, valid: (B, D, 4), (B, D) and (B, D).

        Returns:
            (B, D, S, S) float32 probabilities inside each box, 0 where not valid.
        """
        return probabilities(self.mask_head(features, boxes_xyxy, valid, labels), valid)


def probabilities(logits: Tensor, valid: Tensor) -> Tensor:
    """(B, R, S, S) and (B, R) -> (B, R, S, S) float32."""
    return logits.float().sigmoid() * valid[..., None, None]


def required_polygons(batch: Batch) -> Polygons:
    """The outlines; ValueError where the batch has none."""
    polygons = required_targets(batch).polygons
    if polygons is None:
        raise ValueError("these targets have no outlines: train faster_rcnn, or use a data set with masks")
    return polygons
