"""RetinaNet on rotated boxes: arXiv:1708.02002 with the anchors of arXiv:1703.01086."""

from detcore.models.retinanet import RetinaNet


class RotatedRetinaNet(RetinaNet):
    """RetinaNet whose anchors and detections are rotated boxes.

    Its parts are those of `RetinaNet`, with a `RotatedAnchorGenerator` and a head of 5 numbers a box; the box loss is
    smooth_l1. Targets need `boxes_xywha`; detections have them, and the upright boxes around them.
    """

    predicts = ("boxes", "rotated")
