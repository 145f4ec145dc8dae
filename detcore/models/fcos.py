"""FCOS: arXiv:1904.01355; with centre sampling, GIoU and the centreness on the boxes' tower: arXiv:2006.09214."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detcore.models.dense_detector import DenseDetector
from detcore.models.faster_rcnn import required_targets
from detcore.models.heads.dense_head import DensePredictions
from detcore.ops import giou_loss
from detcore.structures.batch import Batch
from detcore.structures.boxes import area, at_least_float32

OBJECTS_AT_ONCE = 16
"""Objects that are compared with all places in one go; bounds the memory."""


class FCOS(DenseDetector):
    """Each place of a level learns the smallest object that it lies in the middle of and whose size suits the level.

    An anchor is the square around a place, of the level's stride; the four offsets are the distances from the place to
    the box's left, top, right and bottom, in strides.

    Args:
        centre_radius: a place is positive only if it is nearer to the object's centre than this, in strides, along both
            axes.
        parts: what every `DenseDetector` takes; the head with a centreness branch.
    """

    def __init__(self, *, centre_radius: float, **parts: Any) -> None:
        super().__init__(**parts)
        self.centre_radius = centre_radius

    def scores(self, predictions: DensePredictions) -> Tensor:
        """The geometric mean of class and centreness (arXiv:2006.09214, eq. 4)."""
        assert predictions.centreness is not None
        centreness = at_least_float32(predictions.centreness).sigmoid()
        return (at_least_float32(predictions.logits).sigmoid() * centreness[..., None]).sqrt()

    def decode(self, anchors: Tensor, offsets: Tensor) -> Tensor:
        centre, side = _centre_and_side(anchors)
        distances = at_least_float32(offsets).relu() * side
        return torch.cat((centre - distances[..., :2], centre + distances[..., 2:]), dim=-1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """loss_fcos_cls, loss_fcos_loc and loss_fcos_ctr: 0-dim, divided by what `divisor` makes of the positives.

        Raises:
            ValueError: the batch has no targets.
        """
        targets = required_targets(batch)
        self.backbone.draw(batch)
        predictions = self.dense(batch.images)
        assert predictions.centreness is not None
        anchors = predictions.anchors
        boxes = targets.boxes_xyxy.to(anchors.dtype)
        matched, positive = assign_places(
            anchors, predictions.level_sizes, boxes, targets.valid & batch.real[:, None], self.centre_radius
        )
        labels = torch.where(positive, targets.labels.gather(1, matched), self.num_classes)
        counted = batch.real[:, None].expand_as(labels)
        boxes = boxes.gather(1, matched[..., None].expand(-1, -1, 4))
        # In float32 or better, also under autocast.
        logits = at_least_float32(predictions.centreness)
        entropy = F.binary_cross_entropy_with_logits(logits, centreness_of(anchors, boxes), reduction="none")
        overlap = giou_loss(self.decode(anchors, predictions.offsets), boxes)
        divisor = self.divisor(positive.sum().to(boxes.dtype))
        return {
            "loss_fcos_cls": self.class_loss(predictions, labels, counted) / divisor,
            "loss_fcos_loc": torch.where(positive, overlap, 0.0).sum() / divisor,
            "loss_fcos_ctr": torch.where(positive, entropy, 0.0).sum() / divisor,
        }


@torch.no_grad()
def assign_places(
    anchors: Tensor, level_sizes: tuple[int, ...], boxes_xyxy: Tensor, valid: Tensor, centre_radius: float
) -> tuple[Tensor, Tensor]:
    """The object that each place is trained on: arXiv:1904.01355, section 3.2, and centre sampling.

    A place must lie inside the box and near its centre, and the farthest of the four sides between 4 and 8 strides
    away: 0 and 8 on the first level, 4 and any number on the last. Of several such objects the smallest is taken, of
    equal ones the first. The memory is that of `OBJECTS_AT_ONCE` objects, however many there are.

    Args:
        anchors: (N, 4) xyxy, squares around the places, of the levels' strides.
        level_sizes: anchors of each level.
        boxes_xyxy, valid: (B, M, 4) and (B, M) bool, the objects.
        centre_radius: in strides.

    Returns:
        matched: (B, N) int64; 0 where there is none.
        positive: (B, N) bool.
    """
    centre, side = _centre_and_side(anchors)
    (x, y), side = centre.unbind(-1), side.squeeze(-1)
    nearest_allowed, farthest_allowed = 4 * side, 8 * side
    nearest_allowed[: level_sizes[0]] = 0.0
    farthest_allowed[-level_sizes[-1] :] = torch.inf
    smallest = boxes_xyxy.new_full((len(boxes_xyxy), len(anchors)), torch.inf)
    matched = torch.zeros_like(smallest, dtype=torch.int64)
    for first in range(0, boxes_xyxy.shape[1], OBJECTS_AT_ONCE):
        boxes = boxes_xyxy[:, first : first + OBJECTS_AT_ONCE]
        x1, y1, x2, y2 = boxes[..., None].unbind(-2)  # (B, m, 1) each
        sides = (x - x1, y - y1, x2 - x, y2 - y)
        nearest = torch.minimum(torch.minimum(sides[0], sides[1]), torch.minimum(sides[2], sides[3]))
        farthest = torch.maximum(torch.maximum(sides[0], sides[1]), torch.maximum(sides[2], sides[3]))
        off_centre = torch.maximum((sides[0] - sides[2]).abs(), (sides[1] - sides[3]).abs()) / 2
        suits = (nearest > 0) & (farthest > nearest_allowed) & (farthest < farthest_allowed)
        suits &= (off_centre < centre_radius * side) & valid[:, first : first + OBJECTS_AT_ONCE, None]
        least, index = torch.where(suits, area(boxes)[..., None], torch.inf).min(dim=1)
        matched = torch.where(least < smallest, first + index, matched)
        smallest = torch.minimum(least, smallest)
    return matched, smallest.isfinite()


def centreness_of(anchors: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """How far in the middle of its box each place lies: arXiv:1904.01355, eq. 3.

    Args:
        anchors: (N, 4) xyxy, around the places.
        boxes_xyxy: (B, N, 4).

    Returns:
        (B, N) in [0, 1]; 0 outside of the box.
    """
    centre, _ = _centre_and_side(anchors)
    before, after = centre - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - centre
    near, far = torch.minimum(before, after).clamp(min=0.0), torch.maximum(before, after)
    # A place outside has near = 0; only there may far be 0 or less.
    return (near / torch.where(far > 0, far, 1.0)).prod(dim=-1).sqrt()


def _centre_and_side(anchors: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 4) squares, xyxy -> (..., 2) and (..., 1)."""
    return (anchors[..., :2] + anchors[..., 2:]) / 2, anchors[..., 2:3] - anchors[..., :1]
