"""What every backbone and every neck gives and says of itself."""

from torch import Tensor, nn

from detcore.models.stochastic_depth import draw_paths
from detcore.structures.batch import Batch


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

    def draw(self, batch: Batch) -> None:
        """Draws what this step of training leaves out at random; a detector's `losses` begins with it."""
        draw_paths(self.modules(), batch)

    def layers_above(self, name: str) -> int:
        """How many layers a parameter of this module lies below the output; what `optim.layer_decay` counts.

        Raises:
            ValueError: for a backbone that does not tell.
        """
        raise ValueError(f"optim.layer_decay: a {type(self).__name__} does not tell its layers apart; leave it out")

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
