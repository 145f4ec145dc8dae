"""Keypoint R-CNN with a feature pyramid: arXiv:1703.06870, section 5."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from detcore.models.faster_rcnn import FasterRCNN, required_targets
from detcore.models.graph_sizes import largest
from detcore.models.heads.keypoint_head import KeypointHead
from detcore.models.heads.mask_head import MaskHead
from detcore.models.mask_rcnn import probabilities
from detcore.structures.batch import Batch, Detections


class KeypointRCNN(FasterRCNN):
    """Faster R-CNN whose detections have keypoints, and masks if there is a head for them.

    Args:
        keypoint_head, mask_head: both are trained on the positive regions; the second may be None.
        parts: what `FasterRCNN` takes.
    """

    def __init__(self, *, keypoint_head: KeypointHead, mask_head: MaskHead | None, **parts: Any) -> None:
        super().__init__(**parts)
        self.keypoint_head, self.mask_head = keypoint_head, mask_head
        self.predicts = ("boxes", "keypoints") if mask_head is None else ("boxes", "masks", "keypoints")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of Faster R-CNN, loss_keypoint, and loss_mask if there is a head for it.

        Raises:
            ValueError: the targets have no keypoints, another number of them, or no outlines for the mask head.
        """
        targets = required_targets(batch)
        if targets.keypoints is None:
            raise ValueError("these targets have no keypoints: train faster_rcnn, or use a data set with keypoints")
        if self.mask_head is not None and targets.polygons is None:
            raise ValueError("these targets have no outlines: set model.mask_head=null, or use a data set with masks")
        losses, features, regions = self._first_losses(batch)
        losses |= self.keypoint_head.losses(features, regions, targets.keypoints, batch)
        if self.mask_head is not None and targets.polygons is not None:
            losses |= self.mask_head.losses(features, regions, targets.polygons)
        return losses

    def describe(self, features: list[Tensor], detections: Detections) -> Detections:
        """Detections with keypoints, and with masks if there is a head for them."""
        boxes = detections.boxes_xyxy.to(torch.promote_types(features[0].dtype, torch.float32))
        valid = detections.valid
        longest_side = self.neck.strides[0] * largest(*features[0].shape[-2:])
        keypoints = self.keypoint_head.predict(features, boxes, valid, longest_side=longest_side)
        detections = replace(detections, keypoints=keypoints.float())
        if self.mask_head is None:
            return detections
        logits = self.mask_head(features, boxes, valid, detections.labels)
        return replace(detections, masks=probabilities(logits, valid))
