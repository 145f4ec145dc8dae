"""Model sections: one member of `ModelConfig` for each built-in detector, its parts as sections of their own."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from detcore.config.section import Count, CountOrZero, Fraction, NonNegative, Positive, Section

Norm = Literal["frozen_bn", "bn", "gn"]


class ResNetBackbone(Section):
    """Detectron2's ResNet: C2..C5 at strides 4, 8, 16, 32."""

    type: Literal["resnet"] = "resnet"
    depth: Literal[50, 101] = 50
    norm: Norm = "frozen_bn"
    stride_in_1x1: bool = True
    stem_channels: Count = 64
    res2_channels: Count = 256
    groups: Count = 1
    width_per_group: Count = 64
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """Stages that are not trained: 0 none, 1 the stem, 2 the stem and res2, and so on."""
    weights: str | None = None
    """A safetensors file with the backbone's tensors; None starts at random, which leaves nothing to freeze."""
    image_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB, on the scale 0..255."""
    image_std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def _no_random_weights_are_frozen(self) -> Self:
        if self.weights is None and (self.norm == "frozen_bn" or self.frozen_stages):
            raise ValueError(
                f"norm={self.norm} and frozen_stages={self.frozen_stages} would freeze random weights: set "
                "model.backbone.weights=FILE (safetensors), or norm=gn (or bn) and frozen_stages=0 to start at random"
            )
        return self


class TimmBackbone(Section):
    """Any timm model that supports `features_only`."""

    type: Literal["timm"] = "timm"
    name: str
    norm: Norm = "frozen_bn"
    frozen_stages: CountOrZero = 0
    """Feature stages, from the input on, that are not trained; 1 is everything up to the first FPN level."""
    weights: Literal["none", "pretrained"] = "pretrained"
    """'pretrained': from an installed package where there is one, else timm's own by name. 'none': random."""


Backbone = Annotated[ResNetBackbone | TimmBackbone, Field(discriminator="type")]


class FPN(Section):
    channels: Count = 256
    norm: Literal["none", "gn"] = "none"


class Anchors(Section):
    sizes: tuple[tuple[Positive, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    """Square roots of the anchors' areas in pixels, one tuple a level from P2 to P6."""
    aspect_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    offset: Fraction = 0.0
    """The first anchor's centre, in strides."""

    @model_validator(mode="after")
    def _same_count_per_level(self) -> Self:
        if len(self.sizes) != 5 or len({len(level) for level in self.sizes}) != 1:
            raise ValueError(
                f"anchors.sizes needs five levels (P2..P6) with the same number of sizes, got {self.sizes}"
            )
        return self


class RPN(Section):
    anchors: Anchors = Anchors()
    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    samples_per_image: Count = 256
    positive_fraction: Fraction = 0.5
    pre_nms_topk_train: Count = 2000
    """Per level."""
    pre_nms_topk_test: Count = 1000
    post_nms_topk_train: Count = 1000
    """Over all levels."""
    post_nms_topk_test: Count = 1000
    nms_threshold: Fraction = 0.7
    min_box_size: NonNegative = 0.0
    smooth_l1_beta: NonNegative = 0.0
    loss_weight: NonNegative = 1.0


class BoxHead(Section):
    pooler_resolution: Count = 7
    sampling_ratio: CountOrZero = 0
    num_convs: CountOrZero = 0
    conv_channels: Count = 256
    num_fcs: CountOrZero = 2
    fc_channels: Count = 1024
    norm: Literal["none", "gn"] = "none"
    class_agnostic: bool = False
    box_weights: tuple[Positive, Positive, Positive, Positive] = (10.0, 10.0, 5.0, 5.0)
    smooth_l1_beta: NonNegative = 0.0


class MaskHead(Section):
    pooler_resolution: Count = 14
    sampling_ratio: CountOrZero = 0
    num_convs: CountOrZero = 4
    conv_channels: Count = 256
    norm: Literal["none", "gn"] = "none"
    class_agnostic: bool = False


class RoISampling(Section):
    samples_per_image: Count = 512
    positive_fraction: Fraction = 0.25
    positive_iou: Fraction = 0.5
    append_ground_truth: bool = True


class Selection(Section):
    """Which detections are kept."""

    score_threshold: Fraction = 0.05
    nms_threshold: Fraction = 0.5
    max_detections: Count = 100


class _RCNN(Section):
    name: str
    """The recipe's name; part of the run's."""
    num_classes: Count | None = None
    """None takes the data set's."""
    backbone: Backbone
    fpn: FPN = FPN()
    rpn: RPN = RPN()
    roi_sampling: RoISampling = RoISampling()
    box_head: BoxHead = BoxHead()
    selection: Selection = Selection()


class FasterRCNN(_RCNN):
    type: Literal["faster_rcnn"] = "faster_rcnn"


class MaskRCNN(_RCNN):
    type: Literal["mask_rcnn"] = "mask_rcnn"
    mask_head: MaskHead = MaskHead()


class OwnModel(Section):
    """A user's module, handed to `detcore.fit(model=…)`: nothing here to build it from."""

    type: Literal["own"] = "own"
    name: str = "own"
    num_classes: Count | None = None


ModelConfig = Annotated[FasterRCNN | MaskRCNN | OwnModel, Field(discriminator="type")]
