"""Sections of the one-stage detectors."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from detcore.config.model.backbone import FPN, Backbone, Neck
from detcore.config.model.detector import Detector
from detcore.config.model.rcnn import Anchors, Selection
from detcore.config.section import Count, CountOrZero, Fraction, NonNegative, Positive, Section


class DenseHead(Section):
    num_convs: CountOrZero = 4
    """Of each of the two towers."""
    norm: Literal["none", "gn", "bn"] = "none"
    """'bn' keeps statistics for each level."""
    prior_probability: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    """What every class starts at."""


class FCOSHead(DenseHead):
    norm: Literal["none", "gn", "bn"] = "gn"


class DenseSelection(Selection):
    candidates_per_level: Count = 1000
    clip_before_nms: bool = False
    """Boxes meet cut to the image, as torchvision's do, not whole."""


class FCOSSelection(DenseSelection):
    """A score is the geometric mean of class and centreness, so the threshold is higher."""

    score_threshold: Fraction = 0.2
    nms_threshold: Fraction = 0.6


class Dense(Detector):
    """What all one-stage detectors have."""

    backbone: Backbone
    neck: Neck
    head: DenseHead
    focal_alpha: Fraction = 0.25
    focal_gamma: NonNegative = 2.0
    normalizer: Literal["moving_average", "batch"] = "moving_average"
    """What losses are divided by: a moving average of the number of positive anchors, or the batch's own number."""
    initial_positives: Positive
    """Where the moving average starts."""
    selection: DenseSelection


class RetinaNet(Dense):
    type: Literal["retinanet"] = "retinanet"
    neck: Neck = FPN(top="p6p7_from_backbone")
    anchors: Anchors = Anchors(
        sizes=tuple(tuple(size * 2 ** (third / 3) for third in range(3)) for size in (32.0, 64.0, 128.0, 256.0, 512.0))
    )
    head: DenseHead = DenseHead()
    positive_iou: Fraction = 0.5
    negative_iou: Fraction = 0.4
    box_weights: tuple[Positive, Positive, Positive, Positive] = (1.0, 1.0, 1.0, 1.0)
    box_loss: Literal["smooth_l1", "giou", "diou", "ciou"] = "smooth_l1"
    smooth_l1_beta: NonNegative = 0.0
    initial_positives: Positive = 100.0
    selection: DenseSelection = DenseSelection()

    @model_validator(mode="after")
    def _thresholds_are_in_order(self) -> Self:
        if self.negative_iou > self.positive_iou:
            raise ValueError(
                f"negative_iou={self.negative_iou} is above positive_iou={self.positive_iou}: an anchor would be both"
            )
        return self


class FCOS(Dense):
    type: Literal["fcos"] = "fcos"
    neck: Neck = FPN(top="p6p7_from_fpn")
    head: FCOSHead = FCOSHead()
    offset: Fraction = 0.5
    """The first place, in strides."""
    fitted_steps: bool = False
    """See the anchors': the places are as far apart."""
    centre_radius: Positive = 1.5
    """Positive places are nearer than this to their object's centre, in strides."""
    initial_positives: Positive = 300.0
    selection: FCOSSelection = FCOSSelection()
