"""The feature pyramid network: arXiv:1612.03144; RetinaNet's coarser levels: arXiv:1708.02002, section 4."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.models.backbones.backbone import Neck
from detcore.models.initialization import keep_variance, start
from detcore.models.norm import ConvNorm


class FPN(Neck):
    """C_i.. -> P_i.. of one width, from the coarsest down, and coarser levels on top.

    Args:
        in_channels, in_strides: of each input, finest first.
        channels: of every output.
        norm: 'none', 'gn', 'ln', 'bn' or 'frozen_bn'.
        fuse: 'sum' or 'avg', of each lateral map and the coarser level above it.
        top: 'none'; 'max_pool', one level: every second pixel of the last; 'p6p7_from_backbone' or 'p6p7_from_fpn', two
            levels, by strided convolutions from the last input or the last output.

    Raises:
        ValueError: an input's stride is not twice the one's before it.
    """

    def __init__(
        self,
        *,
        in_channels: tuple[int, ...],
        in_strides: tuple[int, ...],
        channels: int,
        norm: str,
        fuse: str = "sum",
        top: str,
    ) -> None:
        super().__init__()
        if any(coarse != 2 * fine for fine, coarse in pairwise(in_strides)):
            raise ValueError(
                f"a feature pyramid needs strides that double from one level to the next, the backbone's are "
                f"{in_strides}: see backbone.out_features and backbone.res5_dilation"
            )
        self.channels, self.num_region_levels, self.top = channels, len(in_channels), top
        self.size_divisor = in_strides[-1]
        self.fuse_factor = {"sum": 1.0, "avg": 0.5}[fuse]
        lateral = [
            ConvNorm(in_channels=width, out_channels=channels, kernel_size=1, norm=norm) for width in in_channels
        ]
        output = [ConvNorm(in_channels=channels, out_channels=channels, kernel_size=3, norm=norm) for _ in in_channels]
        start((*lateral, *output), keep_variance)
        self.lateral, self.output = nn.ModuleList(lateral), nn.ModuleList(output)
        last = in_strides[-1]
        match top:
            case "none":
                self.strides = in_strides
            case "max_pool":
                self.strides = (*in_strides, 2 * last)
            case "p6p7_from_backbone" | "p6p7_from_fpn":
                self.strides = (*in_strides, 2 * last, 4 * last)
                width = in_channels[-1] if top == "p6p7_from_backbone" else channels
                self.p6 = nn.Conv2d(width, channels, kernel_size=3, stride=2, padding=1)
                self.p7 = nn.Conv2d(channels, channels, kernel_size=3, stride=2, padding=1)
                start((self.p6, self.p7), keep_variance)
            case _:
                raise ValueError(f"unknown top {top!r}")

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        merged: list[Tensor] = []
        for conv, feature in zip(reversed(self.lateral), reversed(features), strict=True):
            fused = conv(feature, merged[-1] if merged else None)
            merged.append(fused if self.fuse_factor == 1.0 or not merged else fused * self.fuse_factor)
        outputs = [conv(feature) for conv, feature in zip(self.output, reversed(merged), strict=True)]
        match self.top:
            case "none":
                return outputs
            case "max_pool":
                return [*outputs, F.max_pool2d(outputs[-1], kernel_size=1, stride=2)]
        p6 = self.p6(features[-1] if self.top == "p6p7_from_backbone" else outputs[-1])
        return [*outputs, p6, self.p7(F.relu(p6))]
