"""ResNet (arXiv:1512.03385) as published detectors have it: frozen affine norm, stride in the 1x1 or the 3x3."""

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.models.backbone import Backbone
from detcore.models.norm import ConvNorm, freeze

NUM_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
NUM_STAGES = 5
"""The stem, then res2 to res5."""


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; more than one group makes it ResNeXt's (arXiv:1611.05431)."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        inner_channels: int,
        stride: int,
        stride_in_1x1: bool,
        groups: int,
        norm: str,
    ) -> None:
        super().__init__()
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut: ConvNorm | None = None
        if in_channels != out_channels or stride != 1:
            self.shortcut = ConvNorm(
                in_channels=in_channels, out_channels=out_channels, kernel_size=1, stride=stride, norm=norm
            )
        self.conv1 = ConvNorm(
            in_channels=in_channels, out_channels=inner_channels, kernel_size=1, stride=stride1, norm=norm, relu=True
        )
        self.conv2 = ConvNorm(
            in_channels=inner_channels,
            out_channels=inner_channels,
            kernel_size=3,
            stride=stride2,
            groups=groups,
            norm=norm,
            relu=True,
        )
        self.conv3 = ConvNorm(in_channels=inner_channels, out_channels=out_channels, kernel_size=1, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv3(self.conv2(self.conv1(x)))
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return F.relu(out + shortcut, inplace=True)


class Stem(nn.Module):
    """A 7x7 convolution and a max pool: stride 4."""

    def __init__(self, *, channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels=3, out_channels=channels, kernel_size=7, stride=2, norm=norm, relu=True)

    def forward(self, images: Tensor) -> Tensor:
        return F.max_pool2d(self.conv1(images), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """Images (B, 3, H, W) -> C2..C5, at strides 4, 8, 16 and 32.

    Args:
        depth: 50 or 101.
        norm: 'frozen_bn', 'bn' or 'gn'.
        stride_in_1x1: where a stage's first block halves the size: the first 1x1 or the 3x3 convolution.
        stem_channels, res2_channels: widths; res3 to res5 double res2's each.
        groups, width_per_group: of the 3x3 convolutions of res2.
        frozen_stages: how many are not trained: 0 none, 1 the stem, 2 the stem and res2, up to 5. Batch norms in them
            become frozen ones.
        image_mean, image_std: what images are normalised with; RGB, 0..255.
    """

    def __init__(
        self,
        *,
        depth: int,
        norm: str,
        stride_in_1x1: bool,
        stem_channels: int,
        res2_channels: int,
        groups: int,
        width_per_group: int,
        frozen_stages: int,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.image_mean, self.image_std = image_mean, image_std
        self.channels = tuple(res2_channels << index for index in range(4))
        self.stem = Stem(channels=stem_channels, norm=norm)
        in_channels = stem_channels
        for index, num_blocks in enumerate(NUM_BLOCKS[depth]):
            blocks = []
            for block in range(num_blocks):
                blocks.append(
                    Bottleneck(
                        in_channels=in_channels,
                        out_channels=self.channels[index],
                        inner_channels=groups * width_per_group << index,
                        stride=2 if block == 0 and index > 0 else 1,
                        stride_in_1x1=stride_in_1x1,
                        groups=groups,
                        norm=norm,
                    )
                )
                in_channels = self.channels[index]
            setattr(self, f"res{index + 2}", nn.Sequential(*blocks))
        stages = ("stem", "res2", "res3", "res4", "res5")
        assert len(stages) == NUM_STAGES
        for stage in stages[:frozen_stages]:
            freeze(getattr(self, stage))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        features = []
        for stage in ("res2", "res3", "res4", "res5"):
            x = getattr(self, stage)(x)
            features.append(x)
        return features
