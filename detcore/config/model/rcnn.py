"""Sections of the two-stage detectors and their parts."""

from typing import Annotated, Literal, Self

from pydantic import Tag, model_validator

from detcore.config.model.backbone import FPN, Backbone, Neck, ResNetBackbone
from detcore.config.model.detector import Detector
from detcore.config.section import Count, CountOrZero, Fraction, NonNegative, Positive, Section, by_type

BoxLoss = Literal["smooth_l1", "giou", "diou", "ciou"]
BoxWeights = tuple[Positive, Positive, Positive, Positive]


class Anchors(Section):
    sizes: tuple[tuple[Positive, ...], ...] = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    """Square roots of the anchors' areas in pixels, one tuple for each of the neck's levels."""
    aspect_ratios: tuple[Positive, ...] = (0.5, 1.0, 2.0)
    """Height over width."""
    offset: Fraction = 0.0
    """The first anchor's centre, in strides."""
    rounded: bool = False
    """From centre to side it is a whole number of pixels: torchvision's."""
    fitted_steps: bool = False
    """A level's anchors are as far apart as the padded image's side over the map's, rounded down, not as its stride:
    torchvision's. They differ where a map's last pixel is half in the padding."""

    @model_validator(mode="after")
    def _same_count_per_level(self) -> Self:
        if not self.sizes or not self.sizes[0] or len({len(level) for level in self.sizes}) != 1:
            raise ValueError(f"anchors.sizes needs the same number of sizes on every level, got {self.sizes}")
        return self


class RPN(Section):
    anchors: Anchors = Anchors()
    conv_channels: tuple[Count | None, ...] = (None,)
    """Widths of the 3x3 convolutions before the predictions; null keeps the width."""
    positive_iou: Fraction = 0.7
    negative_iou: Fraction = 0.3
    boundary_threshold: NonNegative | None = None
    """Anchors that reach further than this out of the image, in pixels, are not trained on; null trains on all."""
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
    box_weights: tuple[Positive, Positive, Positive, Positive] = (1.0, 1.0, 1.0, 1.0)
    smooth_l1_beta: NonNegative = 0.0
    loss_weight: NonNegative = 1.0
    box_loss: BoxLoss = "smooth_l1"
    box_loss_weight: NonNegative = 1.0
    """Of the box loss alone, on top of loss_weight."""


class Federated(Section):
    """Each image's class loss looks at the classes it has and at random others, as LVIS needs (arXiv:2103.07461)."""

    num_classes_per_image: Count = 50
    frequency_power: NonNegative = 0.5
    """A class is drawn in proportion to its count to this power."""
    class_counts: tuple[NonNegative, ...] | None = None
    """How often each class occurs; None counts the training images that have it."""


class RegionHead(Section):
    """What every kind of second stage has."""

    sampling_ratio: CountOrZero = 0
    smooth_l1_beta: NonNegative = 0.0
    box_loss: BoxLoss = "smooth_l1"
    box_loss_weight: NonNegative = 1.0
    class_loss: Literal["softmax", "sigmoid"] = "softmax"
    federated: Federated | None = None
    """With class_loss sigmoid; None looks at all classes."""
    aligned: bool = True
    """False pools half a cell of the level further to the right and down, as RoIAlign was at first: torchvision's, and
    Detectron2's POOLER_TYPE ROIAlign."""

    @model_validator(mode="after")
    def _federated_is_sigmoid(self) -> Self:
        if self.federated is not None and self.class_loss != "sigmoid":
            raise ValueError("federated looks at single classes, which a softmax has not: set class_loss=sigmoid")
        return self


class LayeredHead(RegionHead):
    """Convolutions and fully connected layers on each region."""

    pooler_resolution: Count = 7
    num_convs: CountOrZero = 0
    conv_channels: Count = 256
    num_fcs: CountOrZero = 2
    fc_channels: Count = 1024
    norm: Literal["none", "gn", "ln", "frozen_bn"] = "none"


class BoxHead(LayeredHead):
    type: Literal["standard"] = "standard"
    class_agnostic: bool = False
    box_weights: BoxWeights = (10.0, 10.0, 5.0, 5.0)


class CascadeHead(LayeredHead):
    """Cascade R-CNN's stages: the other settings are each one's; their boxes are class-agnostic."""

    type: Literal["cascade"] = "cascade"
    ious: tuple[Fraction, ...] = (0.5, 0.6, 0.7)
    """Regions are positive from these on, one for each stage; the first is roi_sampling's."""
    box_weights: tuple[BoxWeights, ...] = ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0))

    @model_validator(mode="after")
    def _one_for_each_stage(self) -> Self:
        if not self.ious or len(self.ious) != len(self.box_weights):
            raise ValueError(
                f"ious has {len(self.ious)} stages and box_weights {len(self.box_weights)}: give one of each to a stage"
            )
        return self


class Res5Head(RegionHead):
    """The backbone's missing last stage, on each region; its width, groups, norm and weights are as the backbone's."""

    type: Literal["res5"] = "res5"
    pooler_resolution: Count = 14
    class_agnostic: bool = False
    box_weights: BoxWeights = (10.0, 10.0, 5.0, 5.0)


AnyBoxHead = Annotated[
    Annotated[BoxHead, Tag("standard")] | Annotated[CascadeHead, Tag("cascade")] | Annotated[Res5Head, Tag("res5")],
    by_type("standard"),
]


class MaskHead(Section):
    pooler_resolution: Count = 14
    sampling_ratio: CountOrZero = 0
    num_convs: CountOrZero = 4
    conv_channels: Count = 256
    norm: Literal["none", "gn", "ln", "frozen_bn"] = "none"
    class_agnostic: bool = False
    aligned: bool = True
    """See the box head's."""


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
    soft_nms: Literal["none", "linear", "gaussian"] = "none"
    """Lower the scores of overlapping boxes instead of dropping them (arXiv:1704.04503)."""
    soft_nms_sigma: Positive = 0.5
    """Of gaussian; the smaller, the more a score falls."""
    soft_nms_min_score: Fraction = 0.001
    """Lowered scores must be above it."""


class Proposing(Detector):
    """What all detectors with region proposals have."""

    backbone: Backbone
    neck: Neck = FPN()
    rpn: RPN = RPN()


class ProposalNetwork(Proposing):
    type: Literal["rpn"] = "rpn"


class RCNN(Proposing):
    """What all two-stage detectors have."""

    roi_sampling: RoISampling = RoISampling()
    box_head: AnyBoxHead = BoxHead()
    selection: Selection = Selection()

    @model_validator(mode="after")
    def _res5_follows_res4(self) -> Self:
        if isinstance(self.box_head, Res5Head):
            backbone = self.backbone
            fits = isinstance(backbone, ResNetBackbone) and backbone.depth >= 50 and backbone.out_features == ("res4",)
            if not fits or self.neck.type != "none":
                raise ValueError(
                    "box_head.type=res5 is a bottleneck ResNet's stage after res4: set backbone.type=resnet, "
                    "backbone.depth=50 or more, backbone.out_features=[res4] and neck.type=none"
                )
        return self

    @model_validator(mode="after")
    def _sampled_for_the_first_stage(self) -> Self:
        head, sampled = self.box_head, self.roi_sampling.positive_iou
        if isinstance(head, CascadeHead) and head.ious[0] != sampled:
            raise ValueError(
                f"box_head.ious begins with {head.ious[0]}, but the first stage's regions are sampled with "
                f"roi_sampling.positive_iou {sampled}: make them equal"
            )
        return self


class FasterRCNN(RCNN):
    type: Literal["faster_rcnn"] = "faster_rcnn"


class Describing(RCNN):
    """What two-stage detectors have that say more of an object than its class and box."""

    train_on_predicted_boxes: bool = False
    """What is said besides trains in the boxes that the box head predicts, as it will be asked for; False: in the
    proposals."""

    @model_validator(mode="after")
    def _one_stage_predicts(self) -> Self:
        if self.train_on_predicted_boxes and not isinstance(self.box_head, BoxHead):
            raise ValueError(
                f"train_on_predicted_boxes has no effect with box_head.type={self.box_head.type}: set it to false"
            )
        return self


class MaskRCNN(Describing):
    type: Literal["mask_rcnn"] = "mask_rcnn"
    mask_head: MaskHead = MaskHead()

    @model_validator(mode="after")
    def _res5_is_pooled_once(self) -> Self:
        if isinstance(self.box_head, Res5Head) and (
            self.mask_head.pooler_resolution,
            self.mask_head.sampling_ratio,
            self.mask_head.aligned,
        ) != (
            14,
            0,
            True,
        ):
            raise ValueError(
                "mask_head.pooler_resolution, sampling_ratio and aligned have no effect with box_head.type=res5, whose "
                "features it shares: set box_head's"
            )
        return self
