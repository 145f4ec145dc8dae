"""Which of many scored boxes become the detections of an image."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from detcore.models.box_geometry import UPRIGHT, BoxGeometry
from detcore.ops import soft_nms_padded
from detcore.structures.batch import Detections
from detcore.structures.boxes import rows_at

SoftNMS = Literal["none", "linear", "gaussian"]


@dataclass(frozen=True, kw_only=True)
class DetectionLimits:
    """Which detections are kept.

    Attributes:
        score_threshold: scores must be above it.
        nms_threshold: boxes of a class that overlap a better one by more than this IoU are dropped.
        max_detections: of an image, the best.
        soft_nms: 'linear' and 'gaussian' lower the scores of overlapping boxes instead (see `soft_nms_padded`).
        soft_nms_sigma: of 'gaussian'.
        soft_nms_min_score: lowered scores must be above it.
    """

    score_threshold: float
    nms_threshold: float
    max_detections: int
    soft_nms: SoftNMS = "none"
    soft_nms_sigma: float = 0.5
    soft_nms_min_score: float = 0.001


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    usable: Tensor,
    limits: DetectionLimits,
    *,
    image_sizes: Tensor,
    geometry: BoxGeometry = UPRIGHT,
) -> tuple[Detections, Tensor]:
    """The best boxes of each image that do not overlap within a class.

    The caller applies `limits.score_threshold`, before it decodes boxes in vain.

    Args:
        boxes: (B, N, 4), finite; or (B, N, 5) where `geometry` is of rotated boxes.
        scores, labels, usable: (B, N) float, int64 and bool: boxes that are not usable neither stay nor drop others.
        image_sizes: (B, 2) of the images' content.
        geometry: the kind of boxes; soft suppression is for upright ones.

    Returns:
        The detections, and (B, D) int64, which of the N each is; 0 where padded.
    """
    if limits.soft_nms == "none":
        keep, count = geometry.nms(boxes, scores, labels, limits.nms_threshold, limits.max_detections, valid=usable)
        kept_scores = scores.gather(1, keep)
    else:
        keep, kept_scores, count = soft_nms_padded(
            boxes,
            scores,
            labels,
            method=limits.soft_nms,
            iou_threshold=limits.nms_threshold,
            sigma=limits.soft_nms_sigma,
            min_score=limits.soft_nms_min_score,
            max_keep=limits.max_detections,
            valid=usable,
        )
    valid = torch.arange(limits.max_detections, device=keep.device) < count[:, None]
    kept = torch.where(valid[..., None], rows_at(boxes, keep), 0.0).float()
    detections = Detections(
        **geometry.detected(kept, image_sizes),
        scores=torch.where(valid, kept_scores, 0.0).float(),
        labels=torch.where(valid, labels.gather(1, keep), 0),
        valid=valid,
    )
    return detections, keep
