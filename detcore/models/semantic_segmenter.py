"""What all detectors have that say the class of every pixel, and nothing of objects."""

import math

from torch import Tensor, nn

from detcore.models.backbones.backbone import Backbone
from detcore.models.heads.deeplab_head import DeepLabHead
from detcore.models.heads.semantic_fpn_head import SemanticFPNHead
from detcore.structures.batch import Batch, Detections


class SemanticSegmenter(nn.Module):
    """Images to features, features to the classes of pixels.

    Args:
        backbone: images -> features.
        semantic_head: what `features` gives -> logits.
    """

    predicts: tuple[str, ...] = ("semantic",)

    def __init__(self, *, backbone: Backbone, semantic_head: SemanticFPNHead | DeepLabHead) -> None:
        super().__init__()
        self.backbone, self.semantic_head = backbone, semantic_head
        self.num_classes: int = semantic_head.num_classes
        self.image_mean, self.image_std = backbone.image_mean, backbone.image_std
        self.size_divisor = math.lcm(32, backbone.size_divisor)

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> what the head works on, finest first.

        Raises:
            ValueError: if height or width is no multiple of `size_divisor`.
        """
        height, width = images.shape[-2:]
        if height % self.size_divisor or width % self.size_divisor:
            raise ValueError(f"images of {height} x {width} pixels: pad both sides to multiples of {self.size_divisor}")
        features: list[Tensor] = self.backbone(images)
        return features

    def dense(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, C, h, w) logits at the head's stride. It compiles as one graph."""
        logits: Tensor = self.semantic_head(self.features(images))
        return logits

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """loss_sem_seg: 0-dim, divided by the pixels over all ranks. ValueError without semantic targets."""
        self.backbone.draw(batch)
        return self.semantic_head.losses(self.dense(batch.images), batch)

    def detect(self, batch: Batch) -> Detections:
        """No objects, and the logits of the pixels' classes."""
        logits = self.dense(batch.images).float()
        boxes = logits.new_zeros((logits.shape[0], 0, 4))
        nothing = boxes[..., 0]
        return Detections(boxes, nothing, nothing.long(), nothing.bool(), semantic=logits)
