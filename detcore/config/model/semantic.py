"""Sections of the detectors that say the class of every pixel, or draw finer masks."""

from typing import Annotated, Literal

from pydantic import Field

from detcore.config.model.backbone import FPN, Neck, ResNetBackbone, TimmBackbone
from detcore.config.model.detector import Detector
from detcore.config.model.rcnn import Describing, MaskHead
from detcore.config.section import Count, CountOrZero, Fraction, NonNegative, Section

OF_PIXELS = ("semantic_fpn", "deeplab")
"""Types of models whose classes are those of pixels, not of objects."""


class SemanticFPNHead(Section):
    channels: Count = 128
    norm: Literal["none", "gn"] = "gn"
    stride: Count = 4
    """Of the logits, in pixels."""
    loss_weight: NonNegative = 1.0


class SemanticFPN(Detector):
    type: Literal["semantic_fpn"] = "semantic_fpn"
    backbone: Annotated[ResNetBackbone | TimmBackbone, Field(discriminator="type")]
    neck: Neck = FPN()
    semantic_head: SemanticFPNHead = SemanticFPNHead()


class PanopticLimits(Section):
    """What becomes a segment of the panoptic map."""

    instance_confidence: Fraction = 0.5
    """Objects of a lower score do not."""
    overlap_threshold: Fraction = 0.5
    """Nor does an object of which better ones cover more than this fraction."""
    stuff_area_limit: CountOrZero = 4096
    """Nor does stuff on fewer pixels of the raw image."""


class PanopticFPN(Describing):
    type: Literal["panoptic_fpn"] = "panoptic_fpn"
    mask_head: MaskHead = MaskHead()
    semantic_classes: Annotated[int, Field(ge=2)] = 54
    """Of pixels: class 0 stands for all things, then come the classes of stuff (COCO has 53)."""
    semantic_head: SemanticFPNHead = SemanticFPNHead(loss_weight=0.5)
    instance_loss_weight: NonNegative = 1.0
    """Multiplies the losses of regions: classes, boxes and masks."""
    panoptic: PanopticLimits = PanopticLimits()


class DeepLabResNetBackbone(ResNetBackbone):
    """A ResNet with dilated last stages."""

    type: Literal["deeplab_resnet"] = "deeplab_resnet"  # type: ignore[assignment]
    stem: Literal["basic", "deeplab"] = "deeplab"
    """'deeplab': three 3x3 convolutions for the 7x7 one."""
    stem_channels: Count = 128
    stride_in_1x1: bool = False
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 0
    res4_dilation: Literal[1, 2] = 1
    """2: res4 keeps res3's stride."""
    res5_dilation: Literal[1, 2, 4] = 2  # type: ignore[assignment]
    """Above 1: res5 keeps res4's stride."""
    res5_multi_grid: tuple[Count, ...] = (1, 2, 4)
    """What res5's dilation is multiplied by in each of its blocks, where it is dilated."""
    out_features: tuple[Literal["res2", "res3", "res4", "res5"], ...] = ("res2", "res5")


class DeepLabHead(Section):
    aspp_channels: Count = 256
    aspp_rates: tuple[Count, ...] = (6, 12, 18)
    """Dilations at an output stride of 16."""
    pool_size: tuple[Count, Count] | None = None
    """Height and width in pixels over which the branch of the whole image averages; None for all of the image."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    low_level_channels: tuple[Count, ...] = (48,)
    """What each feature map but the last is narrowed to for the decoder; () is DeepLabV3, which has none."""
    decoder_channels: Count = 256
    separable: bool = False
    """Depthwise separable convolutions."""
    norm: Literal["none", "bn", "gn"] = "bn"
    hardest_pixels: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2
    """The loss is the mean over this fraction of each image's pixels, those of the highest loss; 1: over all."""
    loss_weight: NonNegative = 1.0


class DeepLab(Detector):
    type: Literal["deeplab"] = "deeplab"
    backbone: Annotated[DeepLabResNetBackbone | ResNetBackbone | TimmBackbone, Field(discriminator="type")]
    semantic_head: DeepLabHead = DeepLabHead()


class CoarseMaskHead(Section):
    pooler_resolution: Annotated[int, Field(ge=2, multiple_of=2)] = 14
    conv_channels: Count = 256
    num_fcs: CountOrZero = 2
    fc_channels: Count = 1024
    mask_size: Count = 7


class PointHead(Section):
    num_fcs: CountOrZero = 3
    fc_channels: Count = 256
    class_agnostic: bool = False
    coarse_in_each_layer: bool = True
    """Every layer, not only the first, sees the coarse mask."""
    train_points: Count = 196
    oversampling: Annotated[float, Field(ge=1.0)] = 3.0
    """So many times the points are drawn to choose the least certain from."""
    importance: Fraction = 0.75
    """The fraction of points that are chosen so; the others are uniform."""
    subdivisions: CountOrZero = 5
    """Doublings of the mask's resolution, from the coarse mask's on."""
    subdivision_points: Count = 784
    """Points computed anew in each."""


class PointRend(Describing):
    type: Literal["point_rend"] = "point_rend"
    mask_head: CoarseMaskHead = CoarseMaskHead()
    point_head: PointHead = PointHead()
    train_on_predicted_boxes: bool = True
