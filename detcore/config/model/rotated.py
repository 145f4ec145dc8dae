"""Sections of the detectors of rotated boxes."""

from typing import Literal, Self

from pydantic import model_validator

from detcore.config.model.dense import RetinaNet
from detcore.config.model.rcnn import RCNN, RPN, Anchors, BoxHead, Selection
from detcore.config.section import Positive

RotatedBoxWeights = tuple[Positive, Positive, Positive, Positive, Positive]
"""Of the box coder: centre x, centre y, width, height, angle."""


class RotatedAnchors(Anchors):
    angles_deg: tuple[float, ...] = (-60.0, 0.0, 60.0)
    """Counter-clockwise. With ratios r, 1/r a long side then points in a direction every 30 degrees."""

    @model_validator(mode="after")
    def _some_angle(self) -> Self:
        if not self.angles_deg:
            raise ValueError("anchors.angles_deg needs an angle, such as 0")
        return self


class RotatedRPN(RPN):
    anchors: RotatedAnchors = RotatedAnchors()
    box_weights: RotatedBoxWeights = (1.0, 1.0, 1.0, 1.0, 1.0)  # type: ignore[assignment]
    box_loss: Literal["smooth_l1"] = "smooth_l1"
    boundary_threshold: None = None
    """Where a rotated anchor leaves the image is not defined."""


class RotatedBoxHead(BoxHead):
    box_weights: RotatedBoxWeights = (10.0, 10.0, 5.0, 5.0, 1.0)  # type: ignore[assignment]
    box_loss: Literal["smooth_l1"] = "smooth_l1"
    aligned: Literal[True] = True


class RotatedSelection(Selection):
    soft_nms: Literal["none"] = "none"


class RotatedFasterRCNN(RCNN):
    """Needs targets with `boxes_xywha`."""

    type: Literal["rotated_faster_rcnn"] = "rotated_faster_rcnn"
    rpn: RotatedRPN = RotatedRPN()
    box_head: RotatedBoxHead = RotatedBoxHead()
    selection: RotatedSelection = RotatedSelection()


class RotatedRetinaNet(RetinaNet):
    """Needs targets with `boxes_xywha`."""

    type: Literal["rotated_retinanet"] = "rotated_retinanet"  # type: ignore[assignment]
    anchors: RotatedAnchors = RotatedAnchors(sizes=RetinaNet.model_fields["anchors"].default.sizes)
    box_weights: RotatedBoxWeights = (1.0, 1.0, 1.0, 1.0, 1.0)  # type: ignore[assignment]
    box_loss: Literal["smooth_l1"] = "smooth_l1"
