"""The region proposal network: arXiv:1506.01497, section 3; over a pyramid as in arXiv:1612.03144, section 4.1."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.losses.regression import BoxLoss, box_loss
from detcore.losses.rpn import rpn_losses
from detcore.models.initialization import normal, start
from detcore.models.norm import conv_stack
from detcore.models.proposals.anchors import AnchorGenerator
from detcore.models.proposals.sampler import sample_balanced
from detcore.ops import keyed_uniform
from detcore.ops.conv_act import conv2d_act
from detcore.structures.batch import Batch, Targets, TensorStruct
from detcore.structures.boxes import at_least_float32, rows_at

RANDOM_SITE = 1
"""Keys this module's random numbers; every place that draws has its own."""


@dataclass(frozen=True)
class AnchorPredictions(TensorStruct):
    """What the head says of every anchor; N over all levels.

    Attributes:
        logits: (B, N) objectness.
        offsets: (B, N, 4) box offsets; (B, N, 5) from rotated anchors.
        anchors: (N, 4) xyxy, or (N, 5) xywha.
        level_sizes: anchors of each level, adding up to N.
    """

    logits: Tensor
    offsets: Tensor
    anchors: Tensor
    level_sizes: tuple[int, ...]


@dataclass(frozen=True)
class Proposals(TensorStruct):
    """Regions that may hold an object, by falling score, padded to R an image. They carry no gradient.

    Attributes:
        boxes: (B, R, 4) xyxy, or (B, R, 5) xywha of a rotated detector; pixels of the network's input, inside the
            content; 0 where padded.
        logits: (B, R); 0 where padded.
        valid: (B, R) bool.
        anchors: (B, R) int64, the anchor that each came from: a name that, unlike its rank, rounding does not change.
        image_sizes: (B, 2) int64, height and width of the content, for heads that move the boxes further.
    """

    boxes: Tensor
    logits: Tensor
    valid: Tensor
    anchors: Tensor
    image_sizes: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class ProposalLimits:
    """How many boxes go into non-maximum suppression from each level, and how many come out in all."""

    per_level: int
    total: int


class RPN(nn.Module):
    """Scores and adjusts anchors, trains on them, and turns them into proposals.

    Args:
        channels: of every level.
        conv_channels: widths of the 3x3 convolutions before the predictions; None keeps the width.
        anchors: their generator; what it says of their geometry holds for the proposals.
        positive_iou, negative_iou: an anchor is positive at or above the one, negative below the other; each object's
            best anchors are positive in any case.
        boundary_threshold: anchors that reach further than this out of the image's content are not trained on; pixels.
            None trains on all.
        samples_per_image, positive_fraction: see `sample_balanced`.
        train_limits, test_limits: of the proposals.
        nms_threshold: proposals of a level that overlap a better one by more than this IoU are dropped.
        min_box_size: proposals whose width or height is not above it are dropped; pixels.
        smooth_l1_beta: of the box loss.
        loss_weight: both losses are multiplied by it.
        box_loss, box_loss_weight: what kind the box loss is, and what it alone is multiplied by.
        box_weights: of the box coder, a number for each of a box's.
    """

    def __init__(
        self,
        *,
        channels: int,
        conv_channels: Sequence[int | None] = (None,),
        anchors: AnchorGenerator,
        positive_iou: float,
        negative_iou: float,
        boundary_threshold: float | None = None,
        samples_per_image: int,
        positive_fraction: float,
        train_limits: ProposalLimits,
        test_limits: ProposalLimits,
        nms_threshold: float,
        min_box_size: float,
        smooth_l1_beta: float,
        loss_weight: float,
        box_loss: BoxLoss = "smooth_l1",
        box_loss_weight: float = 1.0,
        box_weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.anchors, self.geometry = anchors, anchors.geometry
        self.iou_thresholds, self.boundary_threshold = (negative_iou, positive_iou), boundary_threshold
        self.samples_per_image, self.positive_fraction = samples_per_image, positive_fraction
        self.train_limits, self.test_limits = train_limits, test_limits
        self.nms_threshold, self.min_box_size = nms_threshold, min_box_size
        self.smooth_l1_beta, self.loss_weight = smooth_l1_beta, loss_weight
        self.box_loss, self.box_loss_weight = box_loss, box_loss_weight
        self.box_coder = self.geometry.coder(weights=box_weights)
        widths = [channels]
        for width in conv_channels:
            widths.append(width or widths[-1])
        self.convs = conv_stack(widths, norm="none")
        self.objectness = nn.Conv2d(widths[-1], anchors.num_per_place, kernel_size=1)
        self.box_offsets = nn.Conv2d(widths[-1], self.geometry.numbers * anchors.num_per_place, kernel_size=1)
        start((*self.convs, self.objectness, self.box_offsets), normal(0.01))

    def forward(self, features: list[Tensor]) -> AnchorPredictions:
        """P2..P6, each (B, C, h, w)."""
        weight, bias = self._predictor()
        # (B, places, values of all anchors) of each level
        levels = [
            conv2d_act(self.convs(feature), weight, bias).permute(0, 2, 3, 1).flatten(1, 2) for feature in features
        ]
        count, numbers = self.anchors.num_per_place, self.geometry.numbers
        logits, offsets, _ = torch.cat(levels, dim=1).tensor_split((count, count + numbers * count), dim=-1)
        shapes = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        dtype = torch.promote_types(features[0].dtype, torch.float32)
        return AnchorPredictions(
            logits=logits.flatten(1),
            offsets=offsets.reshape(offsets.shape[0], -1, numbers),
            anchors=self.anchors(shapes, dtype=dtype, device=features[0].device),
            level_sizes=tuple(level.shape[1] * count for level in levels),
        )

    def _predictor(self) -> tuple[Tensor, Tensor]:
        """Weights and biases of both predictions as one 1x1 convolution, filled up to a multiple of 8 channels.

        So it reads the map once, and in half precision takes the kernels that want 16 bytes of every place.
        """
        layers = (self.objectness, self.box_offsets)
        weight = torch.cat([layer.weight for layer in layers])
        bias = torch.cat([layer.bias for layer in layers if layer.bias is not None])
        missing = -len(bias) % 8
        return F.pad(weight, (0, 0, 0, 0, 0, 0, 0, missing)), F.pad(bias, (0, missing))

    @torch.no_grad()
    def propose(self, predictions: AnchorPredictions, image_sizes: Tensor, limits: ProposalLimits) -> Proposals:
        """The best boxes of each level, clipped to the content, without overlap, then the best over all levels."""
        logits = at_least_float32(predictions.logits)
        logits = torch.where(logits.isfinite(), logits, -torch.inf)
        kept_logits, kept, levels = [], [], []
        start = 0
        for level, size in enumerate(predictions.level_sizes):
            best, index = logits[:, start : start + size].topk(torch.sym_min(limits.per_level, size), dim=1)
            kept_logits.append(best)
            kept.append(index + start)
            levels.append(torch.full_like(index, level))
            start += size
        scores, index, group = (torch.cat(parts, dim=1) for parts in (kept_logits, kept, levels))
        offsets = rows_at(predictions.offsets, index)
        boxes = self.box_coder.decode(predictions.anchors[index], offsets)
        usable = boxes.isfinite().all(dim=-1) & scores.isfinite()
        boxes = self.geometry.clip(torch.where(usable[..., None], boxes, 0.0), image_sizes)
        usable = usable & self.geometry.larger_than(boxes, self.min_box_size)
        # In a graph for all sizes a constant: everything of the second stage would have a size that is a formula.
        total = limits.total if torch.compiler.is_exporting() else torch.sym_min(limits.total, index.shape[1])
        keep, count = self.geometry.nms(boxes, scores, group, self.nms_threshold, total, valid=usable)
        valid = torch.arange(total, device=keep.device) < count[:, None]
        boxes = torch.where(valid[..., None], rows_at(boxes, keep), 0.0)
        logits = torch.where(valid, scores.gather(1, keep), 0.0)
        return Proposals(boxes, logits, valid, index.gather(1, keep), image_sizes)

    def losses(self, predictions: AnchorPredictions, batch: Batch, targets: Targets) -> dict[str, Tensor]:
        """loss_rpn_cls and loss_rpn_loc of a random balanced set of anchors; see `rpn_losses`."""
        anchors = predictions.anchors
        boxes = self.geometry.ground_truth(targets).to(anchors.dtype)
        matched, status = self.geometry.match(
            anchors, boxes, targets.valid, self.iou_thresholds, allow_low_quality=True
        )
        status = torch.where(batch.real[:, None] & self._near_content(anchors, batch.image_sizes), status, -1)
        seed, step = batch.rng_key.unbind()
        candidates = torch.arange(len(anchors), device=anchors.device)
        keys = keyed_uniform(seed, step, batch.sample_ids, RANDOM_SITE, candidates)
        samples = sample_balanced(
            status, keys, num_samples=self.samples_per_image, positive_fraction=self.positive_fraction
        )
        index = samples.indices[:, : samples.num_positive_slots]
        objects = matched.gather(1, index)
        box_losses = box_loss(
            rows_at(predictions.offsets, index),
            anchors[index],
            rows_at(boxes, objects),
            coder=self.box_coder,
            kind=self.box_loss,
            beta=self.smooth_l1_beta,
        )
        losses = rpn_losses(
            logits=predictions.logits.gather(1, samples.indices),
            positive=samples.positive,
            sampled=samples.valid,
            box_losses=box_losses * self.box_loss_weight,
            box_counts=samples.positive[:, : samples.num_positive_slots],
            num_images=batch.real.sum(),
            samples_per_image=self.samples_per_image,
        )
        return {name: loss * self.loss_weight for name, loss in losses.items()}

    def _near_content(self, anchors: Tensor, image_sizes: Tensor) -> Tensor:
        """(N, 4) and (B, 2) -> (B, N) or (1, 1) bool: within `boundary_threshold` of each image's content."""
        if self.boundary_threshold is None:
            return torch.ones(1, 1, dtype=torch.bool, device=anchors.device)
        height, width = (image_sizes.to(anchors.dtype) + self.boundary_threshold)[..., None].unbind(1)
        x1, y1, x2, y2 = anchors.unbind(-1)
        return (torch.minimum(x1, y1) >= -self.boundary_threshold) & (x2 < width) & (y2 < height)
