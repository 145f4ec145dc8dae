"""Faster R-CNN on rotated boxes: rotated anchors and proposals, arXiv:1703.01086, and RoIAlign on a turned grid."""

from detcore.models.faster_rcnn import FasterRCNN


class RotatedFasterRCNN(FasterRCNN):
    """Faster R-CNN whose anchors, proposals and detections are rotated boxes.

    Its parts are those of `FasterRCNN`, made for `box_geometry.ROTATED`: the RPN has a `RotatedAnchorGenerator`, the
    box head and the region sampler that geometry. Targets need `boxes_xywha`; detections have them, and the upright
    boxes around them.
    """

    predicts = ("boxes", "rotated")
