"""Sections of Keypoint R-CNN."""

from typing import Literal

from detcore.config.model.rcnn import Describing, MaskHead
from detcore.config.section import Count, CountOrZero, NonNegative, Section


class KeypointHead(Section):
    num_keypoints: Count = 17
    pooler_resolution: Count = 14
    sampling_ratio: CountOrZero = 0
    conv_channels: tuple[Count, ...] = (512, 512, 512, 512, 512, 512, 512, 512)
    """Of each 3x3 convolution."""
    normalizer: Literal["visible", "static"] = "visible"
    """What the loss is divided by: the keypoints that count, or as many as there are at most."""
    loss_weight: NonNegative = 1.0
    aligned: bool = True
    """See the box head's."""


class KeypointRCNN(Describing):
    type: Literal["keypoint_rcnn"] = "keypoint_rcnn"
    keypoint_head: KeypointHead = KeypointHead()
    mask_head: MaskHead | None = None
    """Null: no masks."""
