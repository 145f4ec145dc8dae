"""The simple feature pyramid of ViTDet: arXiv:2203.16527, section 3."""

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.models.backbones.backbone import Neck
from detcore.models.initialization import keep_variance, start
from detcore.models.norm import ConvNorm, make_norm


class SimplePyramid(Neck):
    """One feature map at stride s -> levels at s/4, s/2, s and 2s, each from that map alone, and at 4s above them.

    Args:
        in_channels, in_strides: of the one input.
        channels: of every output.
        norm: 'ln', 'gn' or 'none', behind each convolution and inside the fourfold upsampling.
    """

    def __init__(self, *, in_channels: tuple[int, ...], in_strides: tuple[int, ...], channels: int, norm: str) -> None:
        super().__init__()
        if len(in_channels) != 1 or in_strides[0] % 4 or in_channels[0] % 4:
            raise ValueError(
                "model.neck.type=simple_pyramid takes one feature map whose stride and width are multiples of 4, "
                f"the backbone has widths {in_channels} at strides {in_strides}"
            )
        (width,), (stride,) = in_channels, in_strides
        self.channels, self.num_region_levels = channels, 4
        self.strides = (stride // 4, stride // 2, stride, 2 * stride, 4 * stride)
        self.size_divisor = 2 * stride
        half, quarter = width // 2, width // 4
        between = make_norm(norm, half)
        finest = [
            _doubled(width, half),
            *([between] if between is not None else []),
            nn.GELU(),
            _doubled(half, quarter),
        ]
        self.levels = nn.ModuleList(
            nn.Sequential(*resize, *_convs(before, channels, norm))
            for resize, before in (
                (finest, quarter),
                ([_doubled(width, half)], half),
                ([], width),
                ([nn.MaxPool2d(kernel_size=2, stride=2)], width),
            )
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        outputs = [level(features[0]) for level in self.levels]
        return [*outputs, F.max_pool2d(outputs[-1], kernel_size=1, stride=2)]


def _doubled(before: int, after: int) -> nn.ConvTranspose2d:
    """To twice the size."""
    return nn.ConvTranspose2d(before, after, kernel_size=2, stride=2)


def _convs(before: int, after: int, norm: str) -> tuple[ConvNorm, ConvNorm]:
    convs = (
        ConvNorm(in_channels=before, out_channels=after, kernel_size=1, norm=norm),
        ConvNorm(in_channels=after, out_channels=after, kernel_size=3, norm=norm),
    )
    start(convs, keep_variance)
    return convs
