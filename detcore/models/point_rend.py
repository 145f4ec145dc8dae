"""PointRend for instances: arXiv:1912.08193."""

from dataclasses import replace

import torch
from torch import Tensor

from detcore.losses.mask import mask_loss
from detcore.models.backbones.backbone import Backbone, Neck
from detcore.models.faster_rcnn import FasterRCNN, required_targets
from detcore.models.heads.box_head import BoxHead
from detcore.models.heads.coarse_mask_head import CoarseMaskHead
from detcore.models.heads.point_head import PointHead, of_class
from detcore.models.mask_rcnn import probabilities
from detcore.models.proposals.roi_sampling import RegionSampler
from detcore.models.proposals.rpn import RPN
from detcore.models.selection import DetectionLimits
from detcore.ops import polygon_roi_masks
from detcore.structures.batch import Batch, Detections


class PointRend(FasterRCNN):
    """Faster R-CNN whose detections have masks: coarse ones, that are computed anew where they are least certain.

    Args:
        mask_head, point_head: the coarse masks, and what refines them.
        train_on_predicted_boxes: see `FasterRCNN`.
    """

    predicts = ("boxes", "masks")

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Neck,
        rpn: RPN,
        box_head: BoxHead,
        mask_head: CoarseMaskHead,
        point_head: PointHead,
        region_sampler: RegionSampler,
        limits: DetectionLimits,
        train_on_predicted_boxes: bool,
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
        self.mask_head, self.point_head = mask_head, point_head

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of Faster R-CNN, loss_mask of the coarse masks and loss_mask_point.

        Raises:
            ValueError: the targets have no outlines.
        """
        polygons = required_targets(batch).polygons
        if polygons is None:
            raise ValueError("these targets have no outlines: train faster_rcnn, or use a data set with masks")
        losses, features, regions = self._first_losses(batch)
        positive = regions.positive
        slots = positive.shape[1]
        boxes, labels = regions.boxes[:, :slots], regions.labels[:, :slots]
        objects = torch.where(positive, regions.objects, -1)
        coarse = self.mask_head(features, boxes)
        losses |= mask_loss(
            logits=of_class(coarse, labels),
            targets=polygon_roi_masks(polygons, boxes, objects, self.mask_head.mask_size).flatten(0, 1),
            positive=positive.flatten(),
        )
        # As fine as the masks that are given in the end.
        drawn = polygon_roi_masks(polygons, boxes, objects, self.point_head.mask_size).flatten(0, 1)
        return losses | self.point_head.losses(features[0], boxes, labels, coarse, drawn, positive, batch)

    def describe(self, features: list[Tensor], detections: Detections) -> Detections:
        """Detections with masks."""
        boxes = detections.boxes_xyxy.to(torch.promote_types(features[0].dtype, torch.float32))
        coarse = self.mask_head(features, boxes)
        logits = self.point_head.refine(features[0], boxes, detections.labels, coarse)
        return replace(detections, masks=probabilities(logits, detections.valid))
