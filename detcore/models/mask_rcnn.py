"""Mask R-CNN with a feature pyramid: arXiv:1703.06870."""

from dataclasses import replace

import torch
from torch import Tensor

from detcore.models.backbones.backbone import Backbone, Neck
from detcore.models.faster_rcnn import Dense, DetectionLimits, FasterRCNN, required_targets
from detcore.models.heads.box_head import BoxHead
from detcore.models.heads.mask_head import MaskHead
from detcore.models.proposals.roi_sampling import RegionSampler
from detcore.models.proposals.rpn import RPN
from detcore.structures.batch import Batch, Detections


class MaskRCNN(FasterRCNN):
    """Faster R-CNN whose detections have masks. `mask_head` is trained on the positive regions."""

    predicts: tuple[str, ...] = ("boxes", "masks")

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Neck,
        rpn: RPN,
        box_head: BoxHead,
        mask_head: MaskHead,
        region_sampler: RegionSampler,
        limits: DetectionLimits,
    ) -> None:
        super().__init__(
            backbone=backbone, neck=neck, rpn=rpn, box_head=box_head, region_sampler=region_sampler, limits=limits
        )
        self.mask_head = mask_head

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of Faster R-CNN and loss_mask. Raises ValueError where the targets have no outlines."""
        return self._instance_losses(batch)

    def _instance_losses(self, batch: Batch, dense: Dense | None = None) -> dict[str, Tensor]:
        """`losses`; `dense` is what the dense part gave, where it was run already."""
        polygons = required_targets(batch).polygons
        if polygons is None:
            raise ValueError("these targets have no outlines: train faster_rcnn, or use a data set with masks")
        losses, features, regions = self._first_losses(batch, dense)
        return losses | self.mask_head.losses(features, regions, polygons)

    def detect(self, batch: Batch) -> Detections:
        """What is seen in each image, with masks; the same whatever other images are in the batch."""
        return self._detect_instances(batch)

    def _detect_instances(self, batch: Batch, dense: Dense | None = None) -> Detections:
        """`detect`; `dense` is what the dense part gave, where it was run already."""
        detections, features = self._detect_boxes(batch, dense)
        boxes = detections.boxes_xyxy.to(torch.promote_types(features[0].dtype, torch.float32))
        logits = self.mask_head(features, boxes, detections.valid, detections.labels)
        return replace(detections, masks=logits.float().sigmoid() * detections.valid[..., None, None])
