"""The second stage's classes and boxes: Fast R-CNN, arXiv:1504.08083; over a pyramid, arXiv:1612.03144, section 4.2."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.losses.box_head import box_head_losses
from detcore.models.box_geometry import UPRIGHT, BoxGeometry, Coder
from detcore.models.initialization import keep_variance, normal, start
from detcore.models.norm import conv_stack
from detcore.models.proposals.roi_sampling import TrainingRegions
from detcore.models.proposals.rpn import Proposals
from detcore.structures.batch import Batch


@dataclass(frozen=True, kw_only=True)
class RegionPredictions:
    """What the second stage says of R regions.

    Attributes:
        scores: (B, R, C) probabilities of the classes, without the background.
        offsets: (B, R, C, 4) box offsets of each class, or (B, R, 1, 4), the same for all; 5 of rotated boxes.
        regions_xyxy: (B, R, 4), or (B, R, 5) xywha: what the offsets are from.
        box_coder: decodes them.
    """

    scores: Tensor
    offsets: Tensor
    regions_xyxy: Tensor
    box_coder: Coder

    def boxes(self, index: Tensor, labels: Tensor) -> Tensor:
        """Boxes of chosen pairs, not clipped: index and labels, (B, N) into regions and classes -> (B, N, 4 or 5)."""
        per_region = self.offsets.shape[2]
        place = index if per_region == 1 else index * per_region + labels
        offsets = self.offsets.flatten(1, 2).take_along_dim(place[..., None], dim=1)
        return self.box_coder.decode(self.regions_xyxy.take_along_dim(index[..., None], dim=1), offsets)


class BoxHead(nn.Module):
    """Pools each region from the pyramid, then convolutions, then fully connected layers.

    Args:
        in_channels: of the pyramid.
        strides: of its levels, in pixels.
        num_classes: without the background.
        pooler_resolution: height and width of a pooled region.
        sampling_ratio: samples along each side of a pooled cell; 0 fits them to the region's size.
        num_convs, conv_channels, norm: 3x3 convolutions, their width, 'none' or 'gn'.
        num_fcs, fc_channels: fully connected layers.
        class_agnostic: one box for all classes instead of one for each.
        box_weights: of the box coder, a number for each of a box's.
        smooth_l1_beta: of the box loss.
        geometry: the kind of boxes.
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
        box_weights: tuple[float, ...],
        smooth_l1_beta: float,
        geometry: BoxGeometry = UPRIGHT,
    ) -> None:
        super().__init__()
        self.strides, self.num_classes, self.class_agnostic = tuple(strides), num_classes, class_agnostic
        self.pooler_resolution, self.sampling_ratio = pooler_resolution, sampling_ratio
        self.smooth_l1_beta, self.geometry = smooth_l1_beta, geometry
        self.box_coder = geometry.coder(weights=box_weights)
        widths = [in_channels] + [conv_channels] * num_convs
        self.convs = conv_stack(widths, norm=norm)
        sizes = [widths[-1] * pooler_resolution**2] + [fc_channels] * num_fcs
        fcs = [nn.Linear(before, after) for before, after in pairwise(sizes)]
        self.fcs = nn.ModuleList(fcs)
        self.class_logits = nn.Linear(sizes[-1], num_classes + 1)
        self.box_offsets = nn.Linear(sizes[-1], geometry.numbers * (1 if class_agnostic else num_classes))
        start(fcs, keep_variance)
        start([self.class_logits], normal(0.01))
        start([self.box_offsets], normal(0.001))

    def hidden(self, features: Sequence[Tensor], boxes_xyxy: Tensor, valid: Tensor) -> Tensor:
        """P2.. and (B, R, 4 or 5) boxes with (B, R) valid -> (B, R, F) of each region."""
        pooled = self.geometry.pool(
            features, boxes_xyxy, self.strides, self.pooler_resolution, self.sampling_ratio, valid=valid
        )
        x: Tensor = self.convs(pooled).flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x), inplace=True)
        return x.unflatten(0, boxes_xyxy.shape[:2])

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
        hidden = self.hidden(features, proposals.boxes_xyxy, proposals.valid)
        return RegionPredictions(
            scores=self.class_logits(hidden).to(proposals.boxes_xyxy.dtype).softmax(dim=-1)[..., :-1],
            offsets=self.box_offsets(hidden).unflatten(-1, (-1, self.geometry.numbers)),
            regions_xyxy=proposals.boxes_xyxy,
            box_coder=self.box_coder,
        )

    def losses(self, features: Sequence[Tensor], regions: TrainingRegions, batch: Batch) -> dict[str, Tensor]:
        """loss_cls and loss_box_reg; see `box_head_losses`."""
        hidden = self.hidden(features, regions.boxes_xyxy, regions.valid)
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
