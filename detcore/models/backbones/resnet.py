"""ResNet (arXiv:1512.03385) as published detectors have it: frozen affine norm, stride in the 1x1 or the 3x3."""

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.models.backbones.backbone import Backbone
from detcore.models.norm import ConvNorm, freeze

NUM_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STAGES = ("res2", "res3", "res4", "res5")
"""After the stem."""


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
    """Images (B, 3, H, W) -> features of stages res2 to res5, at strides 4, 8, 16 and 32.

    Args:
        depth: 50 or 101.
        norm: 'frozen_bn', 'bn' or 'gn'.
        stride_in_1x1: where a stage's first block halves the size: the first 1x1 or the 3x3 convolution.
        stem_channels, res2_channels: widths; res3 to res5 double res2's each.
        groups, width_per_group: of the 3x3 convolutions of res2.
        frozen_stages: how many are not trained: 0 none, 1 the stem, 2 the stem and res2, up to 5. Batch norms in them
            become frozen ones.
        out_features: names of the stages whose features are given, finest first; later stages are left out.
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
        out_features: tuple[str, ...] = STAGES,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.image_mean, self.image_std = image_mean, image_std
        self.out_features = out_features
        stages = STAGES[: STAGES.index(out_features[-1]) + 1]
        widths = {stage: res2_channels << index for index, stage in enumerate(stages)}
        self.channels = tuple(widths[stage] for stage in out_features)
        self.strides = tuple(4 << STAGES.index(stage) for stage in out_features)
        self.stem = Stem(channels=stem_channels, norm=norm)
        in_channels = stem_channels
        for index, stage in enumerate(stages):
            blocks = []
            for block in range(NUM_BLOCKS[depth][index]):
                blocks.append(
                    Bottleneck(
                        in_channels=in_channels,
                        out_channels=widths[stage],
                        inner_channels=groups * width_per_group << index,
                        stride=2 if block == 0 and index > 0 else 1,
                        stride_in_1x1=stride_in_1x1,
                        groups=groups,
                        norm=norm,
                    )
                )
                in_channels = widths[stage]
            setattr(self, stage, nn.Sequential(*blocks))
        for stage in ("stem", *stages)[:frozen_stages]:
            freeze(getattr(self, stage))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        features = []
        for stage in STAGES[: STAGES.index(self.out_features[-1]) + 1]:
            x = getattr(self, stage)(x)
            if stage in self.out_features:
                features.append(x)
        return features
