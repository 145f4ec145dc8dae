"""The second stage of C4 detectors: Faster R-CNN as in arXiv:1512.03385, appendix A: res5 on each region of res4."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor

from detcore.models.backbones.resnet_blocks import Bottleneck, stage
from detcore.models.heads.box_head import RegionHead
from detcore.ops import multilevel_roi_align


class Res5Head(RegionHead):
    """Pools each region from res4's features, runs a ResNet's last stage on it, and takes the mean over its places.

    Args:
        in_channels, stride: of res4's features.
        pooler_resolution: height and width of a pooled region; res5 halves it.
        sampling_ratio: samples along each side of a pooled cell; 0 fits them to the region's size.
        aligned: see `multilevel_roi_align`.
        num_blocks, out_channels, inner_channels, groups, stride_in_1x1, norm: res5's; see `Bottleneck`.
        region: the rest is `RegionHead`'s.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        stride: int,
        pooler_resolution: int,
        sampling_ratio: int,
        num_blocks: int,
        out_channels: int,
        inner_channels: int,
        groups: int,
        stride_in_1x1: bool,
        norm: str,
        aligned: bool = True,
        **region: Any,
    ) -> None:
        super().__init__(hidden_channels=out_channels, **region)
        self.stride, self.pooler_resolution, self.sampling_ratio = stride, pooler_resolution, sampling_ratio
        self.aligned, self.out_channels = aligned, out_channels
        block = partial(
            Bottleneck, inner_channels=inner_channels, stride_in_1x1=stride_in_1x1, groups=groups, norm=norm
        )
        self.res5 = stage(block, num_blocks=num_blocks, in_channels=in_channels, out_channels=out_channels, stride=2)

    def region_features(self, features: Sequence[Tensor], boxes_xyxy: Tensor, valid: Tensor) -> Tensor:
        """[res4] and (B, R, 4) boxes with (B, R) valid -> res5's features of each region, (B, R, C, S, S)."""
        pooled = multilevel_roi_align(
            features,
            boxes_xyxy,
            (self.stride,),
            self.pooler_resolution,
            self.sampling_ratio,
            valid=valid,
            aligned=self.aligned,
        )
        x: Tensor = self.res5(pooled)
        return x.unflatten(0, boxes_xyxy.shape[:2])

    def hidden(self, features: Sequence[Tensor], boxes_xyxy: Tensor, valid: Tensor) -> Tensor:
        return mean_over_places(self.region_features(features, boxes_xyxy, valid))


def mean_over_places(region_features: Tensor) -> Tensor:
    """(B, R, C, S, S) -> (B, R, C)."""
    return region_features.mean(dim=(-2, -1))
