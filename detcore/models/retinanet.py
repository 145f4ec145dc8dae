"""RetinaNet: arXiv:1708.02002."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detcore.losses.regression import smooth_l1
from detcore.models.dense_detector import DenseDetector
from detcore.models.faster_rcnn import required_targets
from detcore.models.heads.dense_head import DensePredictions
from detcore.ops import ciou_loss, diou_loss, giou_loss
from detcore.structures.batch import Batch
from detcore.structures.boxes import at_least_float32, rows_at

IOU_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


class RetinaNet(DenseDetector):
    """Classes by a focal loss over all anchors; boxes as offsets from them.

    Args:
        positive_iou, negative_iou: an anchor is positive at or above the one, negative below the other; each object's
            best anchors are positive in any case.
        box_weights: of the box coder, a number for each of a box's.
        box_loss: 'smooth_l1' of the offsets, or 'giou', 'diou' or 'ciou' of the boxes.
        smooth_l1_beta: see `smooth_l1`.
        parts: what every `DenseDetector` takes.
    """

    def __init__(
        self,
        *,
        positive_iou: float,
        negative_iou: float,
        box_weights: tuple[float, ...],
        box_loss: str,
        smooth_l1_beta: float,
        **parts: Any,
    ) -> None:
        super().__init__(**parts)
        if box_loss != "smooth_l1" and box_loss not in IOU_LOSSES:
            raise ValueError(f"unknown box loss {box_loss!r}; there are smooth_l1, {', '.join(IOU_LOSSES)}")
        self.iou_thresholds = (negative_iou, positive_iou)
        self.box_coder = self.anchors.geometry.coder(weights=box_weights)
        self.box_loss, self.smooth_l1_beta = box_loss, smooth_l1_beta

    def scores(self, predictions: DensePredictions) -> Tensor:
        return at_least_float32(predictions.logits).sigmoid()

    def decode(self, anchors: Tensor, offsets: Tensor) -> Tensor:
        return self.box_coder.decode(anchors, offsets)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """loss_cls and loss_box_reg: 0-dim, summed over anchors and divided by what `divisor` makes of the positives.

        Raises:
            ValueError: the batch has no targets.
        """
        targets = required_targets(batch)
        self.backbone.draw(batch)
        predictions, geometry = self.dense(batch.images), self.anchors.geometry
        boxes = geometry.ground_truth(targets).to(predictions.anchors.dtype)
        matched, status = geometry.match(
            predictions.anchors, boxes, targets.valid, self.iou_thresholds, allow_low_quality=True
        )
        status = torch.where(batch.real[:, None], status, -1)
        positive = status == 1
        labels = torch.where(positive, targets.labels.gather(1, matched), self.num_classes)
        divisor = self.divisor(positive.sum().to(boxes.dtype))
        matched_boxes = rows_at(boxes, matched)
        return {
            "loss_cls": self.class_loss(predictions, labels, status >= 0) / divisor,
            "loss_box_reg": self._box_loss(predictions, matched_boxes, positive) / divisor,
        }

    def _box_loss(self, predictions: DensePredictions, boxes: Tensor, positive: Tensor) -> Tensor:
        """The sum over positive anchors."""
        anchors = predictions.anchors
        if self.box_loss == "smooth_l1":
            offsets = at_least_float32(predictions.offsets)
            loss = smooth_l1(offsets, self.box_coder.encode(anchors, boxes), beta=self.smooth_l1_beta).sum(dim=-1)
        else:
            loss = IOU_LOSSES[self.box_loss](self.decode(anchors, predictions.offsets), boxes)
        return torch.where(positive, loss, 0.0).sum()
