"""The second stage's classes and boxes: Fast R-CNN, arXiv:1504.08083; over a pyramid, arXiv:1612.03144, section 4.2."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.losses.box_head import box_head_losses
from detcore.models.initialization import keep_variance, normal, start
from detcore.models.norm import conv_stack
from detcore.models.proposals.roi_sampling import TrainingRegions
from detcore.models.proposals.rpn import Proposals
from detcore.ops import multilevel_roi_align
from detcore.structures.batch import Batch
from detcore.structures.boxes import BoxCoder


@dataclass(frozen=True, kw_only=True)
class RegionPredictions:
    """What the second stage says of R regions.

    Attributes:
        scores: (B, R, C) probabilities of the classes, without the background.
        offsets: (B, R, C, 4) box offsets of each class, or (B, R, 1, 4), the same for all.
        regions_xyxy: (B, R, 4), what the offsets are from.
        box_coder: decodes them.
    """

    scores: Tensor
    offsets: Tensor
    regions_xyxy: Tensor
    box_coder: BoxCoder

    def boxes(self, index: Tensor, labels: Tensor) -> Tensor:
        """Boxes of chosen pairs: index and labels, (B, N) int64 into regions and classes -> (B, N, 4), not clipped."""
        per_region = self.offsets.shape[2]
        place = index if per_region == 1 else index * per_region + labels
        offsets = self.offsets.flatten(1, 2).gather(1, place[..., None].expand(-1, -1, 4))
        return self.box_coder.decode(self.regions_xyxy.gather(1, index[..., None].expand(-1, -1, 4)), offsets)


class RegionHead(nn.Module):
    """A class and boxes from one vector for each region; those who extend it say how a region becomes one.

    Args:
        hidden_channels: of the vector.
        num_classes: without the background.
        class_agnostic: one box for all classes instead of one for each.
        box_weights: of the box coder.
        smooth_l1_beta: of the box loss.
    """

    def __init__(
        self,
        *,
        hidden_channels: int,
        num_classes: int,
        class_agnostic: bool,
        box_weights: tuple[float, float, float, float],
        smooth_l1_beta: float,
    ) -> None:
        super().__init__()
        self.num_classes, self.class_agnostic = num_classes, class_agnostic
        self.smooth_l1_beta = smooth_l1_beta
        self.box_coder = BoxCoder(weights=box_weights)
        self.class_logits = nn.Linear(hidden_channels, num_classes + 1)
        self.box_offsets = nn.Linear(hidden_channels, 4 if class_agnostic else 4 * num_classes)
        start([self.class_logits], normal(0.01))
        start([self.box_offsets], normal(0.001))

    def hidden(self, features: Sequence[Tensor], boxes_xyxy: Tensor, valid: Tensor) -> Tensor:
        """The levels that regions are pooled from and (B, R, 4) boxes with (B, R) valid -> (B, R, F) of each region."""
        raise NotImplementedError

    def offsets_of_class(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """(B, R, F) and (B, R) classes -> (B, R, 4) offsets of each region's box for its class."""
        offsets: Tensor = self.box_offsets(hidden)
        if self.class_agnostic:
            return offsets
        offsets = offsets.unflatten(-1, (self.num_classes, 4))
        index = labels.clamp(max=self.num_classes - 1)[..., None, None].expand(-1, -1, 1, 4)
        return offsets.gather(2, index).squeeze(2)

    def predict(self, features: Sequence[Tensor], proposals: Proposals) -> RegionPredictions:
        """Probabilities and boxes of every proposal."""
        hidden = self.hidden(features, proposals.boxes_xyxy, proposals.valid)
        return RegionPredictions(
            scores=self.class_logits(hidden).to(proposals.boxes_xyxy.dtype).softmax(dim=-1)[..., :-1],
            offsets=self.box_offsets(hidden).unflatten(-1, (-1, 4)),
            regions_xyxy=proposals.boxes_xyxy,
            box_coder=self.box_coder,
        )

    def losses(self, features: Sequence[Tensor], regions: TrainingRegions, batch: Batch) -> dict[str, Tensor]:
        """loss_cls and loss_box_reg; see `box_head_losses`."""
        return self.losses_of(self.hidden(features, regions.boxes_xyxy, regions.valid), regions)

    def losses_of(self, hidden: Tensor, regions: TrainingRegions) -> dict[str, Tensor]:
        """`losses` from what `hidden` gives for the regions."""
        slots = regions.positive.shape[1]
        return box_head_losses(
            logits=self.class_logits(hidden),
            labels=regions.labels,
            sampled=regions.valid,
            offsets=self.offsets_of_class(hidden[:, :slots], regions.labels[:, :slots]),
            target_offsets=self.box_coder.encode(regions.boxes_xyxy[:, :slots], regions.object_boxes),
            positive=regions.positive,
            beta=self.smooth_l1_beta,
        )


class BoxHead(RegionHead):
    """Pools each region from the pyramid, then convolutions, then fully connected layers.

    Args:
        in_channels: of the pyramid.
        strides: of its levels, in pixels.
        num_classes: without the background.
        pooler_resolution: height and width of a pooled region.
        sampling_ratio: samples along each side of a pooled cell; 0 fits them to the region's size.
        num_convs, conv_channels, norm: 3x3 convolutions, their width, 'none' or 'gn'.
        num_fcs, fc_channels: fully connected layers.
        class_agnostic, box_weights, smooth_l1_beta: see `RegionHead`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        strides: Sequence[int],
        num_classes: int,
        pooler_resolution: int,
        sampling_ratio: int,
        num_convs: int,
        conv_channels: int,
        norm: str,
        num_fcs: int,
        fc_channels: int,
        class_agnostic: bool,
        box_weights: tuple[float, float, float, float],
        smooth_l1_beta: float,
    ) -> None:
        widths = [in_channels] + [conv_channels] * num_convs
        sizes = [widths[-1] * pooler_resolution**2] + [fc_channels] * num_fcs
        super().__init__(
            hidden_channels=sizes[-1],
            num_classes=num_classes,
            class_agnostic=class_agnostic,
            box_weights=box_weights,
            smooth_l1_beta=smooth_l1_beta,
        )
        self.strides, self.pooler_resolution, self.sampling_ratio = tuple(strides), pooler_resolution, sampling_ratio
        self.convs = conv_stack(widths, norm=norm)
        fcs = [nn.Linear(before, after) for before, after in pairwise(sizes)]
        self.fcs = nn.ModuleList(fcs)
        start(fcs, keep_variance)

    def hidden(self, features: Sequence[Tensor], boxes_xyxy: Tensor, valid: Tensor) -> Tensor:
        """P2.. and (B, R, 4) boxes with (B, R) valid -> (B, R, F) of each region."""
        pooled = multilevel_roi_align(
            features, boxes_xyxy, self.strides, self.pooler_resolution, self.sampling_ratio, valid=valid
        )
        x: Tensor = self.convs(pooled).flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x), inplace=True)
        return x.unflatten(0, boxes_xyxy.shape[:2])
