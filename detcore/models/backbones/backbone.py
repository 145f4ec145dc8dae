"""What every backbone and every neck gives and says of itself."""

from torch import Tensor, nn


class Backbone(nn.Module):
    """Images (B, 3, H, W) -> feature maps, finest first.

    Attributes:
        channels, strides: of each feature map; strides in pixels of the images.
        image_mean, image_std: what images are normalised with; RGB, on the scale 0..255.
        size_divisor: heights and widths of the images must be multiples of it.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    size_divisor: int = 32

    def forward(self, images: Tensor) -> list[Tensor]:
        raise NotImplementedError


class Neck(nn.Module):
    """A backbone's feature maps -> those that heads work on, finest first.

    Attributes:
        channels: of every level.
        strides: of each level, in pixels of the images.
        num_region_levels: regions are pooled from the first so many levels.
        size_divisor: heights and widths of the images must be multiples of it, so that the levels fit each other.
    """

    channels: int
    strides: tuple[int, ...]
    num_region_levels: int
    size_divisor: int = 32

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        raise NotImplementedError


class NoNeck(Neck):
    """The backbone's one feature map, as it is."""

    def __init__(self, *, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        if len(channels) != 1:
            raise ValueError(f"model.neck.type=none takes one feature map, the backbone has {len(channels)}")
        self.channels, self.strides, self.num_region_levels = channels[0], strides, 1
        self.size_divisor = 1

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return features
