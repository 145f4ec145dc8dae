"""ResNet (arXiv:1512.03385) as published detectors have it: frozen affine norm, stride in the 1x1 or the 3x3."""

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.models.backbones.backbone import Backbone
from detcore.models.backbones.resnet_blocks import BasicBlock, Bottleneck, stage
from detcore.models.norm import ConvNorm, freeze

NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
BASIC_DEPTHS = (18, 34)
"""Their blocks have no bottleneck."""
STAGES = ("res2", "res3", "res4", "res5")
"""After the stem."""


class Stem(nn.Module):
    """A 7x7 convolution and a max pool: stride 4."""

    def __init__(self, *, channels: int, norm: str) -> None:
        super().__init__()
        self.conv1 = ConvNorm(in_channels=3, out_channels=channels, kernel_size=7, stride=2, norm=norm, relu=True)

    def forward(self, images: Tensor) -> Tensor:
        return F.max_pool2d(self.conv1(images), kernel_size=3, stride=2, padding=1)


class ResNet(Backbone):
    """Images (B, 3, H, W) -> features of stages res2 to res5, at strides 4, 8, 16 and 32. A side may be of any length.

    Args:
        depth: 18, 34, 50, 101 or 152.
        norm: 'frozen_bn', 'bn' or 'gn'.
        stride_in_1x1: where a bottleneck stage's first block halves the size: the first 1x1 or the 3x3 convolution.
        stem_channels, res2_channels: widths; res3 to res5 double res2's each.
        groups, width_per_group: of the 3x3 convolutions of res2; bottlenecks only.
        res5_dilation: 2 keeps res5 at stride 16 and dilates its 3x3 convolutions instead; bottlenecks only.
        deform_stages: for res2 to res5, whether their 3x3 convolutions are deformable; bottlenecks only.
        deform_modulated, deform_groups: v2 of these, and their offset groups; see `DeformConvNorm`.
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
        res5_dilation: int = 1,
        deform_stages: tuple[bool, bool, bool, bool] = (False, False, False, False),
        deform_modulated: bool = False,
        deform_groups: int = 1,
        frozen_stages: int,
        out_features: tuple[str, ...] = STAGES,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.image_mean, self.image_std, self.size_divisor = image_mean, image_std, 1
        self.out_features = out_features
        self.stem = Stem(channels=stem_channels, norm=norm)
        in_channels = stem_channels
        channels: dict[str, int] = {}
        strides: dict[str, int] = {}
        stages = STAGES[: STAGES.index(out_features[-1]) + 1]
        for index, name in enumerate(stages):
            dilation = res5_dilation if name == "res5" else 1
            stride = 1 if name == "res2" or dilation > 1 else 2
            if depth in BASIC_DEPTHS:
                block: Callable[..., nn.Module] = partial(BasicBlock, norm=norm)
            else:
                block = partial(
                    Bottleneck,
                    inner_channels=groups * width_per_group << index,
                    stride_in_1x1=stride_in_1x1,
                    groups=groups,
                    norm=norm,
                    dilation=dilation,
                    deform_groups=deform_groups if deform_stages[index] else 0,
                    deform_modulated=deform_modulated,
                )
            channels[name] = res2_channels << index
            strides[name] = stride * strides[stages[index - 1]] if index else 4
            layers = stage(
                block,
                num_blocks=NUM_BLOCKS[depth][index],
                in_channels=in_channels,
                out_channels=channels[name],
                stride=stride,
            )
            setattr(self, name, layers)
            in_channels = channels[name]
        self.channels = tuple(channels[name] for name in out_features)
        self.strides = tuple(strides[name] for name in out_features)
        for name in ("stem", *stages)[:frozen_stages]:
            freeze(getattr(self, name))

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.stem(images)
        features = []
        for name in STAGES[: STAGES.index(self.out_features[-1]) + 1]:
            x = getattr(self, name)(x)
            if name in self.out_features:
                features.append(x)
        return features
