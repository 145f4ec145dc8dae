"""What RetinaNet and FCOS share: one head at every place, and the best of what it says."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detcore.losses.dense import focal_class_loss
from detcore.models.backbones.backbone import Backbone, Neck
from detcore.models.heads.dense_head import DenseHead, DensePredictions
from detcore.models.proposals.anchors import AnchorGenerator
from detcore.models.selection import DetectionLimits
from detcore.structures.batch import Batch, Detections
from detcore.structures.boxes import rows_at


@dataclass(frozen=True, kw_only=True)
class DenseLimits(DetectionLimits):
    """Which detections are kept.

    Attributes:
        candidates_per_level: scored boxes of an image that go into non-maximum suppression, the best of each level.
        clip_before_nms: boxes are cut to the image before that, not only afterwards.
    """

    candidates_per_level: int
    clip_before_nms: bool = False


class DenseDetector(nn.Module):
    """A detector of one stage. A subclass says what a score is, how boxes are decoded, and its losses.

    Args:
        backbone, neck: images -> features.
        head: features -> predictions for every anchor.
        anchors: their generator, over all of the neck's levels.
        limits: of the detections.
        focal_alpha, focal_gamma: of the class loss.
        divisor: from the number of positive anchors to what the losses are divided by; global over ranks.
    """

    predicts: tuple[str, ...] = ("boxes",)

    def __init__(
        self,
        *,
        backbone: Backbone,
        neck: Neck,
        head: DenseHead,
        anchors: AnchorGenerator,
        limits: DenseLimits,
        focal_alpha: float,
        focal_gamma: float,
        divisor: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.anchors = backbone, neck, head, anchors
        self.limits, self.divisor = limits, divisor
        self.focal_alpha, self.focal_gamma = focal_alpha, focal_gamma
        self.num_classes: int = head.num_classes
        self.image_mean, self.image_std = backbone.image_mean, backbone.image_std
        self.size_divisor = math.lcm(32, backbone.size_divisor)

    def scores(self, predictions: DensePredictions) -> Tensor:
        """(B, N, C) in [0, 1], at least float32."""
        raise NotImplementedError

    def decode(self, anchors: Tensor, offsets: Tensor) -> Tensor:
        """(..., 4) xyxy and (..., 4) -> (..., 4) boxes, xyxy, at least float32; of rotated anchors (..., 5), xywha."""
        raise NotImplementedError

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the neck's levels."""
        height, width = images.shape[-2:]
        if height % self.size_divisor or width % self.size_divisor:
            raise ValueError(f"images of {height} x {width} pixels: pad both sides to multiples of {self.size_divisor}")
        features: list[Tensor] = self.neck(self.backbone(images))
        return features

    def dense(self, images: Tensor) -> DensePredictions:
        """All that is learnt, as all of it works on whole feature maps. It compiles as one graph."""
        features = self.features(images)
        shapes = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        dtype = torch.promote_types(features[0].dtype, torch.float32)
        predictions: DensePredictions = self.head(
            features, self.anchors(shapes, dtype=dtype, device=features[0].device)
        )
        return predictions

    def class_loss(self, predictions: DensePredictions, labels: Tensor, counted: Tensor) -> Tensor:
        """The sum; see `focal_class_loss`."""
        return focal_class_loss(
            logits=predictions.logits, labels=labels, counted=counted, alpha=self.focal_alpha, gamma=self.focal_gamma
        )

    @torch.no_grad()
    def detect(self, batch: Batch) -> Detections:
        """What is seen in each image; the same whatever other images are in the batch."""
        predictions, limits, geometry = self.dense(batch.images), self.limits, self.anchors.geometry
        scores, index, labels = self._best_of_each_level(predictions)
        anchors = predictions.anchors[index]
        boxes = self.decode(anchors, rows_at(predictions.offsets, index))
        usable = (scores > 0) & boxes.isfinite().all(dim=-1) & batch.real[:, None]
        boxes = torch.where(usable[..., None], boxes, 0.0)
        if limits.clip_before_nms:
            boxes = geometry.clip(boxes, batch.image_sizes)
            usable = usable & geometry.larger_than(boxes, 0.0)
        keep, count = geometry.nms(boxes, scores, labels, limits.nms_threshold, limits.max_detections, valid=usable)
        # Most published models let boxes meet whole; what is left of them is cut afterwards.
        boxes = geometry.clip(rows_at(boxes, keep), batch.image_sizes)
        valid = torch.arange(limits.max_detections, device=keep.device) < count[:, None]
        valid = valid & geometry.larger_than(boxes, 0.0)
        order = (~valid).to(torch.uint8).argsort(dim=1, stable=True)
        valid, keep = valid.gather(1, order), keep.gather(1, order)
        boxes = torch.where(valid[..., None], rows_at(boxes, order), 0.0).float()
        return Detections(
            **geometry.detected(boxes, batch.image_sizes),
            scores=torch.where(valid, scores.gather(1, keep), 0.0).float(),
            labels=torch.where(valid, labels.gather(1, keep), 0),
            valid=valid,
        )

    def _best_of_each_level(self, predictions: DensePredictions) -> tuple[Tensor, Tensor, Tensor]:
        """Scores (-1 where not above the threshold), anchors and labels, (B, K) each."""
        scores = self.scores(predictions)
        scores = torch.where(scores > self.limits.score_threshold, scores, -1.0)
        parts = []
        start = 0
        for size in predictions.level_sizes:
            level = scores[:, start : start + size].flatten(1)
            best, index = level.topk(torch.sym_min(self.limits.candidates_per_level, level.shape[1]), dim=1)
            anchor = start + index.div(self.num_classes, rounding_mode="floor")
            parts.append((best, anchor, index % self.num_classes))
            start += size
        best, anchor, label = (torch.cat(part, dim=1) for part in zip(*parts, strict=True))
        return best, anchor, label
