"""What every backbone gives and says of itself."""

from torch import Tensor, nn

STRIDES = (4, 8, 16, 32)
"""Of a backbone's features, in pixels of its input."""


class Backbone(nn.Module):
    """Images (B, 3, H, W) -> four feature maps, at STRIDES.

    Attributes:
        channels: of each feature map.
        image_mean, image_std: what images are normalised with; RGB, on the scale 0..255.
    """

    channels: tuple[int, ...]
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]

    def forward(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError
