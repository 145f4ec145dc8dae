"""Detectron2's keys of configurations of rotated detectors."""

from collections.abc import Mapping
from typing import Any

from detcore.config import model as config_of


def is_rotated(model: Mapping[str, Any]) -> bool:
    """Whether the MODEL node describes a two-stage detector of rotated boxes.

    Raises:
        ValueError: where only some of its parts are rotated.
    """
    parts = {
        "PROPOSAL_GENERATOR.NAME": (model["PROPOSAL_GENERATOR"]["NAME"], "RRPN"),
        "ROI_HEADS.NAME": (model["ROI_HEADS"]["NAME"], "RROIHeads"),
        "ANCHOR_GENERATOR.NAME": (model["ANCHOR_GENERATOR"]["NAME"], "RotatedAnchorGenerator"),
        "ROI_BOX_HEAD.POOLER_TYPE": (model["ROI_BOX_HEAD"]["POOLER_TYPE"], "ROIAlignRotated"),
    }
    rotated = [name == wanted for name, wanted in parts.values()]
    if any(rotated) and not all(rotated):
        stated = ", ".join(f"{key}={name}" for key, (name, _) in parts.items())
        needed = ", ".join(wanted for _, wanted in parts.values())
        raise ValueError(f"{stated}: a rotated detector needs all of {needed}")
    return all(rotated)


def rotated_config(model: Mapping[str, Any], settings: Mapping[str, Any]) -> config_of.RotatedFasterRCNN:
    """The section, from the node and what `model_config` made of the parts that do not depend on the kind of boxes.

    Raises:
        ValueError: for a setting that has no counterpart here.
    """
    if model["MASK_ON"] or model["KEYPOINT_ON"]:
        raise ValueError("MASK_ON or KEYPOINT_ON with RROIHeads: rotated detectors have boxes alone")
    angles = model["ANCHOR_GENERATOR"]["ANGLES"]
    if any(list(level) != list(angles[0]) for level in angles):
        raise ValueError(f"ANCHOR_GENERATOR.ANGLES={angles}: levels with angles of their own have no counterpart here")
    rpn = dict(settings["rpn"])
    rpn["anchors"] = {**rpn["anchors"], "angles_deg": tuple(angles[0])}
    return config_of.RotatedFasterRCNN.model_validate({**settings, "rpn": rpn})
