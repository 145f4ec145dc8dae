"""ResNet with dilated last stages, as DeepLab has it: arXiv:1706.05587, section 3.1 and figure 3."""

from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.models.backbones.resnet import STAGES, ResNet
from detcore.models.norm import ConvNorm, freeze


class DeepLabStem(nn.Module):
    """Three 3x3 convolutions, the first two of half the width, and a max pool: stride 4."""

    def __init__(self, *, channels: int, norm: str) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = ConvNorm(in_channels=3, out_channels=half, kernel_size=3, stride=2, norm=norm, relu=True)
        self.conv2 = ConvNorm(in_channels=half, out_channels=half, kernel_size=3, norm=norm, relu=True)
        self.conv3 = ConvNorm(in_channels=half, out_channels=channels, kernel_size=3, norm=norm, relu=True)

    def forward(self, images: Tensor) -> Tensor:
        return F.max_pool2d(self.conv3(self.conv2(self.conv1(images))), kernel_size=3, stride=2, padding=1)


class DeepLabResNet(ResNet):
    """A ResNet whose last stages see as far as ever, but keep their resolution.

    Args:
        stem: 'basic', ResNet's, or 'deeplab', `DeepLabStem`.
        res4_dilation, res5_dilation: of the stages' 3x3 convolutions; above 1 the stage has no stride.
        res5_multi_grid: what res5's dilation is multiplied by in each of its blocks, where it is dilated.
        resnet: the other arguments are ResNet's.

    Raises:
        ValueError: res5_multi_grid has not one factor for each block.
    """

    def __init__(
        self,
        *,
        stem: str,
        stem_channels: int,
        norm: str,
        res4_dilation: int,
        res5_dilation: int,
        res5_multi_grid: Sequence[int],
        frozen_stages: int,
        **resnet: Any,
    ) -> None:
        super().__init__(stem_channels=stem_channels, norm=norm, frozen_stages=0, **resnet)
        if stem == "deeplab":
            self.stem = DeepLabStem(channels=stem_channels, norm=norm)  # type: ignore[assignment]
        stages = [stage for stage in STAGES if hasattr(self, stage)]
        strides = {"res2": 4, "res3": 2, "res4": 2, "res5": 2}
        for stage, dilation in (("res4", res4_dilation), ("res5", res5_dilation)):
            if stage in stages and dilation > 1:
                blocks = list(getattr(self, stage))
                grid = res5_multi_grid if stage == "res5" else [1] * len(blocks)
                if len(grid) != len(blocks):
                    raise ValueError(f"model.backbone.res5_multi_grid = {grid}: res5 has {len(blocks)} blocks")
                for block, factor in zip(blocks, grid, strict=True):
                    _dilate(block, dilation * factor)
                strides[stage] = 1
        total = dict(zip(STAGES, accumulate(strides.values(), mul), strict=True))
        self.strides = tuple(total[stage] for stage in self.out_features)
        for stage in ("stem", *stages)[:frozen_stages]:
            freeze(getattr(self, stage))


def _dilate(block: nn.Module, rate: int) -> None:
    """Takes the strides out of a block's convolutions and spreads its 3x3 ones; no weight changes its shape."""
    for conv in block.modules():
        if isinstance(conv, nn.Conv2d):
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (rate, rate)
