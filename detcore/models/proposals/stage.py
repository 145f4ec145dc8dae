"""The first stage of a two-stage detector: images to features, to predictions of every anchor."""

import math

from torch import Tensor, nn

from detcore.models.backbones.backbone import Backbone, Neck
from detcore.models.proposals.rpn import RPN, AnchorPredictions


class ProposalStage(nn.Module):
    """What detectors with region proposals begin with.

    Args:
        backbone, neck: images -> features.
        rpn: works on all of the neck's levels.
    """

    def __init__(self, *, backbone: Backbone, neck: Neck, rpn: RPN) -> None:
        super().__init__()
        self.backbone, self.neck, self.rpn = backbone, neck, rpn
        self.image_mean, self.image_std = backbone.image_mean, backbone.image_std
        self.size_divisor = math.lcm(backbone.size_divisor, neck.size_divisor)

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the neck's levels."""
        height, width = images.shape[-2:]
        if height % self.size_divisor or width % self.size_divisor:
            raise ValueError(f"images of {height} x {width} pixels: pad both sides to multiples of {self.size_divisor}")
        features: list[Tensor] = self.neck(self.backbone(images))
        return features

    def dense(self, images: Tensor) -> tuple[list[Tensor], AnchorPredictions]:
        """What works on whole feature maps: the neck's levels, the RPN's predictions. It compiles as one graph."""
        features = self.features(images)
        return features, self.rpn(features)
