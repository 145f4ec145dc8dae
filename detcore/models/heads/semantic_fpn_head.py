"""Classes of pixels from a feature pyramid: arXiv:1901.02446, section 3 and figure 3."""

from collections.abc import Sequence

from torch import Tensor, nn

from detcore.losses.semantic import semantic_loss
from detcore.models.initialization import for_relu, start
from detcore.models.norm import ConvNorm
from detcore.structures.batch import Batch


class SemanticFPNHead(nn.Module):
    """Brings every level to one stride by 3x3 convolutions and 2x bilinear upsampling, adds them up, and classifies.

    Args:
        in_channels: of the pyramid.
        strides: of its levels, in pixels; each `stride` times a power of two.
        num_classes: all that a pixel may be.
        channels, norm: of the convolutions; 'none' or 'gn'.
        stride: of the logits, in pixels.
        loss_weight: the loss is multiplied by it.

    Raises:
        ValueError: a level is finer than `stride`, or no power of two coarser.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        strides: Sequence[int],
        num_classes: int,
        channels: int,
        norm: str,
        stride: int,
        loss_weight: float,
    ) -> None:
        super().__init__()
        self.num_classes, self.loss_weight = num_classes, loss_weight
        self.levels = nn.ModuleList()
        for level in strides:
            doublings = (level // stride).bit_length() - 1
            if level != stride << max(doublings, 0):
                raise ValueError(
                    f"model.semantic_head.stride is {stride}, but the neck has a level of stride {level}: needs "
                    "stride times a power of two on every level"
                )
            width, layers = in_channels, list[nn.Module]()
            for _ in range(max(1, doublings)):
                layers.append(ConvNorm(in_channels=width, out_channels=channels, kernel_size=3, norm=norm, relu=True))
                if doublings:
                    layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
                width = channels
            self.levels.append(nn.Sequential(*layers))
        self.predictor = nn.Conv2d(channels, num_classes, kernel_size=1)
        start([self.predictor], for_relu)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """P2.., finest first -> (B, num_classes, H / stride, W / stride) logits."""
        levels = [layers(feature) for layers, feature in zip(self.levels, features, strict=True)]
        return self.predictor(sum(levels[1:], levels[0]))

    def losses(self, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
        """loss_sem_seg; see `semantic_loss`."""
        return {name: loss * self.loss_weight for name, loss in semantic_loss(logits=logits, batch=batch).items()}
