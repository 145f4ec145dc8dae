"""The second stage's classes and boxes: Fast R-CNN, arXiv:1504.08083; over a pyramid, arXiv:1612.03144, section 4.2."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import log
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.losses.box_head import box_head_losses, sigmoid_class_losses, softmax_class_losses
from detcore.losses.regression import BoxLoss, box_loss
from detcore.models.box_geometry import UPRIGHT, BoxGeometry, Coder
from detcore.models.heads.federated import FederatedClasses
from detcore.models.initialization import keep_variance, normal, start
from detcore.models.norm import conv_stack
from detcore.models.proposals.roi_sampling import TrainingRegions
from detcore.models.proposals.rpn import Proposals
from detcore.structures.batch import Batch
from detcore.structures.boxes import rows_at

PRIOR = 0.01
"""Sigmoids of classes start at it: nearly all regions are of none (arXiv:1708.02002, section 3.3)."""


@dataclass(frozen=True, kw_only=True)
class RegionPredictions:
    """What the second stage says of R regions.

    Attributes:
        scores: (B, R, C) probabilities of the classes, without the background.
        offsets: (B, R, C, 4) box offsets of each class, or (B, R, 1, 4), the same for all; 5 of rotated boxes.
        regions: (B, R, 4) xyxy, or (B, R, 5) xywha: what the offsets are from.
        box_coder: decodes them.
    """

    scores: Tensor
    offsets: Tensor
    regions: Tensor
    box_coder: Coder

    def boxes(self, index: Tensor, labels: Tensor) -> Tensor:
        """Boxes of chosen pairs, not clipped: index and labels, (B, N) into regions and classes -> (B, N, 4 or 5)."""
        per_region = self.offsets.shape[2]
        place = index if per_region == 1 else index * per_region + labels
        offsets = rows_at(self.offsets.flatten(1, 2), place)
        return self.box_coder.decode(rows_at(self.regions, index), offsets)


class RegionHead(nn.Module):
    """A class and boxes from one vector for each region; those who extend it say how a region becomes one.

    Args:
        hidden_channels: of the vector.
        num_classes: without the background.
        class_agnostic: one box for all classes instead of one for each.
        box_weights: of the box coder, a number for each of a box's.
        smooth_l1_beta: of the box loss.
        box_loss, box_loss_weight: what kind the box loss is, and what it is multiplied by.
        sigmoid: each class for itself, instead of one softmax over classes and background. The background's logit is
            there all the same, and unused.
        federated: draws the classes that count in an image; with sigmoid only. None counts all.
        geometry: the kind of boxes.
    """

    def __init__(
        self,
        *,
        hidden_channels: int,
        num_classes: int,
        class_agnostic: bool,
        box_weights: tuple[float, ...],
        smooth_l1_beta: float,
        box_loss: BoxLoss = "smooth_l1",
        box_loss_weight: float = 1.0,
        sigmoid: bool = False,
        federated: FederatedClasses | None = None,
        geometry: BoxGeometry = UPRIGHT,
    ) -> None:
        super().__init__()
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.smooth_l1_beta, self.box_loss, self.box_loss_weight = smooth_l1_beta, box_loss, box_loss_weight
        self.sigmoid, self.federated, self.geometry = sigmoid, federated, geometry
        self.box_coder = geometry.coder(weights=box_weights)
        self.class_logits = nn.Linear(hidden_channels, num_classes + 1)
        self.box_offsets = nn.Linear(hidden_channels, geometry.numbers * (1 if class_agnostic else num_classes))
        start([self.class_logits], normal(0.01))
        if sigmoid:
            nn.init.constant_(self.class_logits.bias, -log((1 - PRIOR) / PRIOR))
        start([self.box_offsets], normal(0.001))

    def hidden(self, features: Sequence[Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """The levels that regions are pooled from and their boxes (B, R, 4 or 5) with (B, R) valid -> (B, R, F)."""
        raise NotImplementedError

    def offsets_of_class(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """(B, R, F) and (B, R) classes -> (B, R, 4 or 5) offsets of each region's box for its class."""
        offsets: Tensor = self.box_offsets(hidden)
        if self.class_agnostic:
            return offsets
        offsets = offsets.unflatten(-1, (self.num_classes, self.geometry.numbers))
        index = labels.clamp(max=self.num_classes - 1)[..., None, None]
        return offsets.take_along_dim(index, dim=2).squeeze(2)

    def predict(self, features: Sequence[Tensor], proposals: Proposals) -> RegionPredictions:
        """Probabilities and boxes of every proposal."""
        return self.predict_regions(features, proposals.boxes, proposals.valid)

    def predict_regions(self, features: Sequence[Tensor], boxes: Tensor, valid: Tensor) -> RegionPredictions:
        """Probabilities and boxes of (B, R, 4 or 5) regions with (B, R) valid."""
        hidden = self.hidden(features, boxes, valid)
        logits = self.class_logits(hidden).to(boxes.dtype)
        return RegionPredictions(
            scores=logits[..., :-1].sigmoid() if self.sigmoid else logits.softmax(dim=-1)[..., :-1],
            offsets=self.box_offsets(hidden).unflatten(-1, (-1, self.geometry.numbers)),
            regions=boxes,
            box_coder=self.box_coder,
        )

    def losses(self, features: Sequence[Tensor], regions: TrainingRegions, batch: Batch) -> dict[str, Tensor]:
        """loss_cls and loss_box_reg; see `box_head_losses`."""
        return self.losses_of(self.hidden(features, regions.boxes, regions.valid), regions, batch)

    def losses_of(self, hidden: Tensor, regions: TrainingRegions, batch: Batch, *, draw: int = 0) -> dict[str, Tensor]:
        """`losses` from what `hidden` gives for the regions; `draw` numbers the draws of federated classes."""
        slots = regions.positive.shape[1]
        logits, labels = self.class_logits(hidden), regions.labels
        if self.sigmoid:
            classes = None if self.federated is None else self.federated(labels, regions.valid, batch, draw=draw)
            class_losses = sigmoid_class_losses(logits, labels, classes)
        else:
            class_losses = softmax_class_losses(logits, labels)
        box_losses = box_loss(
            self.offsets_of_class(hidden[:, :slots], labels[:, :slots]),
            regions.boxes[:, :slots],
            regions.object_boxes,
            coder=self.box_coder,
            kind=self.box_loss,
            beta=self.smooth_l1_beta,
        )
        return box_head_losses(
            class_losses=class_losses,
            sampled=regions.valid,
            box_losses=box_losses * self.box_loss_weight,
            positive=regions.positive,
        )


class BoxHead(RegionHead):
    """Pools each region from the pyramid, then convolutions, then fully connected layers.

    Args:
        in_channels: of the pyramid.
        strides: of its levels, in pixels.
        pooler_resolution: height and width of a pooled region.
        sampling_ratio: samples along each side of a pooled cell; 0 fits them to the region's size.
        aligned: see `multilevel_roi_align`; boxes that are not upright are pooled only so.
        num_convs, conv_channels, norm: 3x3 convolutions, their width, 'none' or 'gn'.
        num_fcs, fc_channels: fully connected layers.
        region: the rest is `RegionHead`'s.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        strides: Sequence[int],
        pooler_resolution: int,
        sampling_ratio: int,
        num_convs: int,
        conv_channels: int,
        norm: str,
        num_fcs: int,
        fc_channels: int,
        aligned: bool = True,
        **region: Any,
    ) -> None:
        widths = [in_channels] + [conv_channels] * num_convs
        sizes = [widths[-1] * pooler_resolution**2] + [fc_channels] * num_fcs
        super().__init__(hidden_channels=sizes[-1], **region)
        self.strides, self.pooler_resolution, self.sampling_ratio = tuple(strides), pooler_resolution, sampling_ratio
        self.pool = self.geometry.pool if aligned else partial(self.geometry.pool, aligned=False)
        self.convs = conv_stack(widths, norm=norm)
        fcs = [nn.Linear(before, after) for before, after in pairwise(sizes)]
        self.fcs = nn.ModuleList(fcs)
        start(fcs, keep_variance)

    def hidden(self, features: Sequence[Tensor], boxes: Tensor, valid: Tensor) -> Tensor:
        """P2.. and (B, R, 4 or 5) boxes with (B, R) valid -> (B, R, F) of each region."""
        pooled = self.pool(features, boxes, self.strides, self.pooler_resolution, self.sampling_ratio, valid=valid)
        x: Tensor = self.convs(pooled).flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x), inplace=True)
        return x.unflatten(0, boxes.shape[:2])
