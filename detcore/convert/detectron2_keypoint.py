"""Detectron2's keypoint head: names of its tensors, and its configuration."""

from collections.abc import Mapping
from typing import Any

from detcore.convert.detectron2_pooling import pooler
from detcore.convert.names import Rule

KEYPOINT_HEAD_RULES = [
    Rule("roi_heads.keypoint_head.conv_fcn{n}.", "keypoint_head.convs.{n}.", -1),
    Rule("roi_heads.keypoint_head.score_lowres.", "keypoint_head.upsample."),
]


def keypoint_head(model: Mapping[str, Any]) -> dict[str, Any]:
    """Our section's values for the MODEL node of a Detectron2 configuration.

    Raises:
        ValueError: for a kind of pooling that has no counterpart here.
    """
    head = model["ROI_KEYPOINT_HEAD"]
    return {
        "num_keypoints": head["NUM_KEYPOINTS"],
        **pooler("ROI_KEYPOINT_HEAD", head),
        "conv_channels": tuple(head["CONV_DIMS"]),
        "normalizer": "visible" if head["NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS"] else "static",
        "loss_weight": head["LOSS_WEIGHT"],
    }
