"""PointRend's coarse masks of regions: arXiv:1912.08193, section 4 ("coarse mask prediction")."""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.models.heads.point_sampling import features_at, grid_centres
from detcore.models.initialization import for_relu, keep_variance, normal, start


class CoarseMaskHead(nn.Module):
    """Samples the finest level on a grid in each region, then convolutions, and fully connected layers to all masks.

    Args:
        in_channels: of the pyramid.
        strides: of its levels, in pixels; the first one's is used.
        num_classes: without the background.
        pooler_resolution: height and width of the grid.
        conv_channels: what the level is narrowed to by a 1x1 convolution, if it is wider; and the 2x2 one's width.
        num_fcs, fc_channels: fully connected layers.
        mask_size: height and width of a mask.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        strides: Sequence[int],
        num_classes: int,
        pooler_resolution: int,
        conv_channels: int,
        num_fcs: int,
        fc_channels: int,
        mask_size: int,
    ) -> None:
        super().__init__()
        self.stride, self.num_classes, self.mask_size = strides[0], num_classes, mask_size
        self.pooler_resolution = pooler_resolution
        self.narrow = nn.Conv2d(in_channels, conv_channels, kernel_size=1) if in_channels > conv_channels else None
        channels = min(in_channels, conv_channels)
        self.reduce = nn.Conv2d(channels, conv_channels, kernel_size=2, stride=2)
        sizes = [conv_channels * (pooler_resolution // 2) ** 2] + [fc_channels] * num_fcs
        fcs = [nn.Linear(before, after) for before, after in pairwise(sizes)]
        self.fcs = nn.ModuleList(fcs)
        self.predictor = nn.Linear(sizes[-1], num_classes * mask_size**2)
        start([self.reduce] if self.narrow is None else [self.narrow, self.reduce], for_relu)
        start(fcs, keep_variance)
        start([self.predictor], normal(0.001))

    def forward(self, features: Sequence[Tensor], boxes_xyxy: Tensor) -> Tensor:
        """P2.. and (B, R, 4) boxes -> (B * R, num_classes, mask_size, mask_size) logits."""
        side = self.pooler_resolution
        points = grid_centres(side, boxes_xyxy.device).expand(*boxes_xyxy.shape[:2], -1, -1)
        x = features_at(features[0], self.stride, boxes_xyxy, points)
        x = x.flatten(0, 1).transpose(1, 2).unflatten(2, (side, side))
        if self.narrow is not None:
            x = F.relu(self.narrow(x), inplace=True)
        x = F.relu(self.reduce(x), inplace=True).flatten(1)
        for layer in self.fcs:
            x = F.relu(layer(x), inplace=True)
        return self.predictor(x).unflatten(1, (self.num_classes, self.mask_size, self.mask_size))
