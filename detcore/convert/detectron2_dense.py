"""Detectron2's one-stage detectors: names of their heads' tensors, and RetinaNet's configuration."""

from collections.abc import Mapping
from typing import Any

from detcore.config import model as config_of
from detcore.convert.names import Rule

TOPS = {
    "build_retinanet_resnet_fpn_backbone": "p6p7_from_backbone",
    "build_resnet_fpn_backbone": "max_pool",
}
"""What each of their builders puts on top of the pyramid."""


def dense_head_rules(config: config_of.Dense) -> list[Rule]:
    """For the tensors of RetinaNet's and FCOS's heads. They number convolutions, norms and ReLUs of a tower through."""
    step = 2 if config.head.norm == "none" else 3
    rules = []
    for theirs, ours in (("cls_subnet", "class_tower"), ("bbox_subnet", "box_tower")):
        for layer in range(config.head.num_convs):
            rules.append(Rule(f"head.{theirs}.{step * layer}.", f"head.{ours}.{layer}.conv."))
            if config.head.norm != "none":
                rules.append(Rule(f"head.{theirs}.{step * layer + 1}.", f"head.{ours}.{layer}.norm."))
    rules += [
        Rule("head.cls_score.", "head.class_logits."),
        Rule("head.bbox_pred.", "head.box_offsets."),
        Rule("head.ctrness.", "head.centreness."),
    ]
    if config.normalizer == "moving_average":
        # They keep it beside the model, and lose it.
        rules.append(Rule("", "divisor.average", initial=config.initial_positives))
    return rules


def retinanet_config(
    model: Mapping[str, Any], *, name: str, backbone: dict[str, Any], neck: dict[str, Any], anchors: dict[str, Any]
) -> config_of.RetinaNet:
    """Our section for the MODEL node of a RetinaNet, its parts given as our sections.

    Raises:
        ValueError: for a setting that has no counterpart here.
    """
    head = model["RETINANET"]
    builder = model["BACKBONE"]["NAME"]
    if builder not in TOPS:
        raise ValueError(f"MODEL.BACKBONE.NAME is {builder!r}: RetinaNet is converted with {' or '.join(TOPS)}")
    levels = len(model["FPN"]["IN_FEATURES"]) + (1 if TOPS[builder] == "max_pool" else 2)
    if len(head["IN_FEATURES"]) != levels:
        raise ValueError(
            f"MODEL.RETINANET.IN_FEATURES has {len(head['IN_FEATURES'])} levels, the pyramid {levels}: only a head "
            "over all of them is converted"
        )
    sizes = anchors["sizes"]
    return config_of.RetinaNet.model_validate(
        {
            "name": name,
            "num_classes": head["NUM_CLASSES"],
            "backbone": backbone,
            "neck": {**neck, "top": TOPS[builder]},
            # Sizes that are stated once hold for every level.
            "anchors": {**anchors, "sizes": sizes * levels if len(sizes) == 1 else sizes},
            "head": {
                "num_convs": head["NUM_CONVS"],
                "norm": NORMS_OF_HEAD.get(head["NORM"], head["NORM"]),
                "prior_probability": head["PRIOR_PROB"],
            },
            "negative_iou": head["IOU_THRESHOLDS"][0],
            "positive_iou": head["IOU_THRESHOLDS"][1],
            "box_weights": tuple(head["BBOX_REG_WEIGHTS"]),
            "box_loss": head["BBOX_REG_LOSS_TYPE"],
            "smooth_l1_beta": head["SMOOTH_L1_LOSS_BETA"],
            "focal_alpha": head["FOCAL_LOSS_ALPHA"],
            "focal_gamma": head["FOCAL_LOSS_GAMMA"],
            "selection": {
                "score_threshold": head["SCORE_THRESH_TEST"],
                "nms_threshold": head["NMS_THRESH_TEST"],
                "candidates_per_level": head["TOPK_CANDIDATES_TEST"],
                "max_detections": model.get("TEST", {}).get("DETECTIONS_PER_IMAGE", 100),
            },
        }
    )


NORMS_OF_HEAD = {"": "none", "GN": "gn", "BN": "bn", "SyncBN": "bn"}
