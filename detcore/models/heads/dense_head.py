"""Classes and boxes at every place of every level: RetinaNet, arXiv:1708.02002, section 4; FCOS, arXiv:1904.01355."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detcore.models.initialization import normal, start
from detcore.models.norm import group_norm
from detcore.ops.conv_act import conv2d_act
from detcore.ops.group_norm import group_norm_act
from detcore.structures.batch import TensorStruct


@dataclass(frozen=True)
class DensePredictions(TensorStruct):
    """What the head says of every anchor; N over all levels: by level, row, column and anchor, in this order.

    Attributes:
        logits: (B, N, C) of the classes, each for itself.
        offsets: (B, N, 4) of the boxes; (B, N, 5) from rotated anchors.
        centreness: (B, N) logits, or None where the head has no such branch.
        anchors: (N, 4) xyxy, or (N, 5) xywha.
        level_sizes: anchors of each level, adding up to N.
    """

    logits: Tensor
    offsets: Tensor
    centreness: Tensor | None
    anchors: Tensor
    level_sizes: tuple[int, ...]


class LevelBatchNorm(nn.ModuleList):
    """Batch norm with statistics of each level's own and one affine for all: levels differ in their activations."""

    def __init__(self, *, num_channels: int, num_levels: int) -> None:
        super().__init__(nn.BatchNorm2d(num_channels, affine=False) for _ in range(num_levels))
        self.weight = nn.Parameter(torch.ones(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor, level: int) -> Tensor:
        weight, bias = (part.to(x.dtype).view(1, -1, 1, 1) for part in (self.weight, self.bias))
        return torch.addcmul(bias, self[level](x), weight)


class TowerLayer(nn.Module):
    """A 3x3 convolution with a bias, its norm if there is one, and a ReLU; the same weights on every level."""

    def __init__(self, *, channels: int, norm: str, num_levels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        match norm:
            case "none":
                self.norm: nn.GroupNorm | LevelBatchNorm | None = None
            case "gn":
                self.norm = group_norm(channels)
            case "bn":
                self.norm = LevelBatchNorm(num_channels=channels, num_levels=num_levels)
            case _:
                raise ValueError(f"unknown norm {norm!r}; a dense head's is none, gn or bn")

    def forward(self, x: Tensor, level: int) -> Tensor:
        if self.norm is None:
            return convolved(self.conv, x, relu=True)
        x = self.conv(x)
        if isinstance(self.norm, LevelBatchNorm):
            return F.relu(self.norm(x, level), inplace=True)
        norm = self.norm
        return group_norm_act(x, norm.weight, norm.bias, num_groups=norm.num_groups, eps=norm.eps, relu=True)


class DenseHead(nn.Module):
    """Two towers of convolutions over each level, one for the classes and one for the boxes.

    Args:
        channels: of every level and of the towers.
        num_levels: batch norm keeps statistics for each.
        num_classes: without the background.
        num_anchors: at each place.
        num_convs, norm: of each tower; 'none', 'gn', or 'bn' with statistics for each level.
        prior_probability: what the classes start at (RetinaNet, section 3.3).
        centreness: adds FCOS's branch, on the boxes' tower.
        box_numbers: 4, or 5 of rotated boxes.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_levels: int,
        num_classes: int,
        num_anchors: int,
        num_convs: int,
        norm: str,
        prior_probability: float,
        centreness: bool,
        box_numbers: int = 4,
    ) -> None:
        super().__init__()
        self.num_classes, self.box_numbers = num_classes, box_numbers
        towers = [
            nn.ModuleList(TowerLayer(channels=channels, norm=norm, num_levels=num_levels) for _ in range(num_convs))
            for _ in range(2)
        ]
        self.class_tower, self.box_tower = towers
        self.class_logits = nn.Conv2d(channels, num_anchors * num_classes, kernel_size=3, padding=1)
        self.box_offsets = nn.Conv2d(channels, num_anchors * box_numbers, kernel_size=3, padding=1)
        self.centreness = nn.Conv2d(channels, num_anchors, kernel_size=3, padding=1) if centreness else None
        start((module for module in self.modules() if isinstance(module, nn.Conv2d)), normal(0.01))
        assert self.class_logits.bias is not None
        nn.init.constant_(self.class_logits.bias, -math.log((1 - prior_probability) / prior_probability))

    def forward(self, features: list[Tensor], anchors: Tensor) -> DensePredictions:
        """The neck's levels, each (B, C, h, w), and (N, box_numbers) anchors of all of them."""
        logits, offsets, centreness = [], [], []
        for level, feature in enumerate(features):
            classes = boxes = feature
            for layer in self.class_tower:
                classes = layer(classes, level)
            for layer in self.box_tower:
                boxes = layer(boxes, level)
            logits.append(by_anchor(convolved(self.class_logits, classes), self.num_classes))
            offsets.append(by_anchor(convolved(self.box_offsets, boxes), self.box_numbers))
            if self.centreness is not None:
                centreness.append(by_anchor(self.centreness(boxes), 1).squeeze(-1))
        return DensePredictions(
            logits=torch.cat(logits, dim=1),
            offsets=torch.cat(offsets, dim=1),
            centreness=torch.cat(centreness, dim=1) if centreness else None,
            anchors=anchors,
            level_sizes=tuple(level.shape[1] for level in logits),
        )


def convolved(conv: nn.Conv2d, x: Tensor, *, relu: bool = False) -> Tensor:
    """By a 3x3 convolution with a bias, and with the ReLU that follows it."""
    assert conv.bias is not None
    return conv2d_act(x, conv.weight, conv.bias, padding=1, relu=relu)


def by_anchor(x: Tensor, values: int) -> Tensor:
    """(B, A * values, h, w) -> (B, h * w * A, values)."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, values)
