"""Panoptic FPN: arXiv:1901.02446."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from detcore.models.heads.semantic_fpn_head import SemanticFPNHead
from detcore.models.mask_rcnn import MaskRCNN
from detcore.models.proposals.rpn import AnchorPredictions
from detcore.ops import PanopticLimits
from detcore.structures.batch import Batch, Detections


class PanopticFPN(MaskRCNN):
    """Mask R-CNN, and the class of every pixel from the same pyramid. `detcore.ops.panoptic` makes one map of both.

    Args:
        semantic_head: its class 0 stands for all things, the others are stuff.
        instance_loss_weight: multiplies the losses of regions, not the RPN's.
        panoptic_limits: what becomes a segment of the map.
        mask_rcnn: the other arguments are Mask R-CNN's.
    """

    predicts = ("boxes", "masks", "semantic", "panoptic")

    def __init__(
        self,
        *,
        semantic_head: SemanticFPNHead,
        instance_loss_weight: float,
        panoptic_limits: PanopticLimits,
        **mask_rcnn: Any,
    ) -> None:
        super().__init__(**mask_rcnn)
        self.semantic_head, self.instance_loss_weight = semantic_head, instance_loss_weight
        self.panoptic_limits = panoptic_limits

    def dense(self, images: Tensor) -> tuple[list[Tensor], AnchorPredictions, Tensor]:  # type: ignore[override]
        """The neck's levels, the RPN's predictions, and the logits of the pixels' classes. It compiles as one graph."""
        features, predictions = super().dense(images)
        return features, predictions, self.semantic_head(features[: self.neck.num_region_levels])

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Those of Mask R-CNN and loss_sem_seg. Raises ValueError where targets lack outlines or pixels' classes."""
        self.backbone.draw(batch)
        features, predictions, logits = self.dense(batch.images)
        losses = self._instance_losses(batch, (features, predictions))
        weights = {name: 1.0 if name.startswith("loss_rpn") else self.instance_loss_weight for name in losses}
        losses = {name: loss * weights[name] for name, loss in losses.items()}
        return losses | self.semantic_head.losses(logits, batch)

    def detect(self, batch: Batch) -> Detections:
        """What is seen in each image, with masks, and the logits of the pixels' classes."""
        features, predictions, logits = self.dense(batch.images)
        detections, features = self._detect_boxes(batch, (features, predictions))
        return replace(self.describe(features, detections), semantic=logits.float())
