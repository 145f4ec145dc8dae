"""The feature pyramid network: arXiv:1612.03144."""

import torch.nn.functional as F
from torch import Tensor, nn

from detcore.models.initialization import keep_variance, start
from detcore.models.norm import ConvNorm


class FPN(nn.Module):
    """C2..C5 -> P2..P5 of one width, from the coarsest down, and P6: every second pixel of P5.

    Args:
        in_channels: of each input, finest first.
        channels: of every output.
        norm: 'none' or 'gn'.
    """

    def __init__(self, *, in_channels: tuple[int, ...], channels: int, norm: str) -> None:
        super().__init__()
        self.channels = channels
        lateral = [
            ConvNorm(in_channels=width, out_channels=channels, kernel_size=1, norm=norm) for width in in_channels
        ]
        output = [ConvNorm(in_channels=channels, out_channels=channels, kernel_size=3, norm=norm) for _ in in_channels]
        start((*lateral, *output), keep_variance)
        self.lateral, self.output = nn.ModuleList(lateral), nn.ModuleList(output)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        laterals = [conv(feature) for conv, feature in zip(self.lateral, features, strict=True)]
        merged = [laterals[-1]]
        for lateral in reversed(laterals[:-1]):
            merged.append(lateral + F.interpolate(merged[-1], size=lateral.shape[-2:], mode="nearest"))
        outputs = [conv(feature) for conv, feature in zip(self.output, reversed(merged), strict=True)]
        return [*outputs, F.max_pool2d(outputs[-1], kernel_size=1, stride=2)]
