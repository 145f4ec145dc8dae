"""Detectron2's keys of configurations, as its documentation has them."""

from collections.abc import Mapping
from typing import Any

from detcore.config import model as config_of
from detcore.convert.detectron2_checks import HEAD_NORMS, expect_counterparts, norm_of
from detcore.convert.detectron2_dense import retinanet_config
from detcore.convert.detectron2_keypoint import keypoint_head
from detcore.convert.detectron2_pooling import pooler
from detcore.convert.detectron2_rotated import is_rotated, rotated_config
from detcore.convert.detectron2_semantic import (
    POINT_REND_HEADS,
    panoptic_settings,
    point_rend_settings,
    semantic_config,
)

_STANDARD = ("StandardROIHeads", "PointRendROIHeads")


def model_config(model: Mapping[str, Any], *, name: str) -> config_of.ModelConfig:
    """Our section for the MODEL node of a Detectron2 configuration.

    Raises:
        ValueError: for an architecture or a setting that has no counterpart here.
    """
    expect_counterparts(model)
    if model.get("META_ARCHITECTURE") == "RetinaNet":
        return retinanet_config(model, name=name, backbone=_backbone(model), neck=_neck(model), anchors=_anchors(model))
    if model.get("META_ARCHITECTURE") == "SemanticSegmentor":
        return semantic_config(model, name=name, backbone=_backbone(model), neck=_neck(model))
    heads = model["ROI_HEADS"]
    proposing = {
        "name": name,
        "num_classes": heads["NUM_CLASSES"],
        "backbone": _backbone(model),
        "neck": _neck(model),
        "rpn": _rpn(model),
    }
    if model["META_ARCHITECTURE"] == "ProposalNetwork":
        return config_of.ProposalNetwork.model_validate(proposing)
    settings = {
        **proposing,
        "roi_sampling": {
            "samples_per_image": heads["BATCH_SIZE_PER_IMAGE"],
            "positive_fraction": heads["POSITIVE_FRACTION"],
            "positive_iou": heads["IOU_THRESHOLDS"][0],
            "append_ground_truth": heads["PROPOSAL_APPEND_GT"],
        },
        "box_head": _res5_head(model) if heads["NAME"] == "Res5ROIHeads" else _box_head(model),
        "selection": {
            "score_threshold": heads["SCORE_THRESH_TEST"],
            "nms_threshold": heads["NMS_THRESH_TEST"],
            "max_detections": model.get("TEST", {}).get("DETECTIONS_PER_IMAGE", 100),
        },
    }
    if is_rotated(model):
        return rotated_config(model, settings)
    if not model["MASK_ON"] and not model.get("KEYPOINT_ON") and model["META_ARCHITECTURE"] != "PanopticFPN":
        return config_of.FasterRCNN.model_validate(settings)
    # Other heads than the standard one do not look at it.
    settings["train_on_predicted_boxes"] = heads["NAME"] in _STANDARD and model["ROI_BOX_HEAD"]["TRAIN_ON_PRED_BOXES"]
    if model.get("KEYPOINT_ON"):
        masks = _mask_head(model) if model["MASK_ON"] else None
        return config_of.KeypointRCNN.model_validate(
            {**settings, "keypoint_head": keypoint_head(model), "mask_head": masks}
        )
    if model.get("META_ARCHITECTURE") == "PanopticFPN":
        panoptic = {"mask_head": _mask_head(model), **panoptic_settings(model)}
        return config_of.PanopticFPN.model_validate({**settings, **panoptic})
    if model["ROI_MASK_HEAD"].get("NAME") in POINT_REND_HEADS:
        return config_of.PointRend.model_validate({**settings, **point_rend_settings(model)})
    return config_of.MaskRCNN.model_validate({**settings, "mask_head": _mask_head(model)})


def _backbone(model: Mapping[str, Any]) -> dict[str, Any]:
    if "SECTION" in model["BACKBONE"]:  # told by tensors, in our words
        return dict(model["BACKBONE"]["SECTION"])
    resnet = model["RESNETS"]
    bottleneck = {
        "groups": resnet["NUM_GROUPS"],
        "width_per_group": resnet["WIDTH_PER_GROUP"],
        "stride_in_1x1": resnet["STRIDE_IN_1X1"],
        "res5_dilation": resnet["RES5_DILATION"],
        "deform_stages": tuple(resnet["DEFORM_ON_PER_STAGE"]),
    }
    if any(resnet["DEFORM_ON_PER_STAGE"]):
        bottleneck |= {
            "deform_modulated": resnet["DEFORM_MODULATED"],
            "deform_groups": resnet["DEFORM_NUM_GROUPS"],
        }
    return {
        "type": "resnet",
        "weights": "converted",  # the model's own: frozen as they are
        "depth": resnet["DEPTH"],
        "norm": norm_of(resnet["NORM"], "RESNETS.NORM"),
        "stem_channels": resnet["STEM_OUT_CHANNELS"],
        "res2_channels": resnet["RES2_OUT_CHANNELS"],
        **(bottleneck if resnet["DEPTH"] >= 50 else {}),
        "frozen_stages": model["BACKBONE"]["FREEZE_AT"],
        "out_features": tuple(resnet["OUT_FEATURES"]),
        "image_mean": tuple(model["PIXEL_MEAN"][::-1]),
        "image_std": tuple(model["PIXEL_STD"][::-1]),
    }


def _neck(model: Mapping[str, Any]) -> dict[str, Any]:
    if "NECK" in model["BACKBONE"]:
        return dict(model["BACKBONE"]["NECK"])
    fpn = model["FPN"]
    if not fpn["IN_FEATURES"]:
        return {"type": "none"}
    return {
        "type": "fpn",
        "channels": fpn["OUT_CHANNELS"],
        "norm": norm_of(fpn["NORM"], "FPN.NORM"),
        "fuse": fpn["FUSE_TYPE"],
    }


def _anchors(model: Mapping[str, Any]) -> dict[str, Any]:
    anchors = model["ANCHOR_GENERATOR"]
    return {
        "sizes": anchors["SIZES"],
        "aspect_ratios": anchors["ASPECT_RATIOS"][0],
        "offset": anchors["OFFSET"],
    }


def _rpn(model: Mapping[str, Any]) -> dict[str, Any]:
    rpn = model["RPN"]
    return {
        "anchors": _anchors(model),
        "conv_channels": tuple(None if width == -1 else width for width in rpn["CONV_DIMS"]),
        "boundary_threshold": None if rpn["BOUNDARY_THRESH"] < 0 else rpn["BOUNDARY_THRESH"],
        "negative_iou": rpn["IOU_THRESHOLDS"][0],
        "positive_iou": rpn["IOU_THRESHOLDS"][1],
        "samples_per_image": rpn["BATCH_SIZE_PER_IMAGE"],
        "positive_fraction": rpn["POSITIVE_FRACTION"],
        "pre_nms_topk_train": rpn["PRE_NMS_TOPK_TRAIN"],
        "pre_nms_topk_test": rpn["PRE_NMS_TOPK_TEST"],
        "post_nms_topk_train": rpn["POST_NMS_TOPK_TRAIN"],
        "post_nms_topk_test": rpn["POST_NMS_TOPK_TEST"],
        "nms_threshold": rpn["NMS_THRESH"],
        "box_weights": tuple(rpn["BBOX_REG_WEIGHTS"]),
        "min_box_size": model["PROPOSAL_GENERATOR"]["MIN_SIZE"],
        "smooth_l1_beta": rpn["SMOOTH_L1_BETA"],
        "loss_weight": rpn["LOSS_WEIGHT"],
        "box_loss": rpn["BBOX_REG_LOSS_TYPE"],
        "box_loss_weight": rpn["BBOX_REG_LOSS_WEIGHT"],
    }


def _box_head(model: Mapping[str, Any]) -> dict[str, Any]:
    head = model["ROI_BOX_HEAD"]
    settings = {
        **pooler("ROI_BOX_HEAD", head),
        "num_convs": head["NUM_CONV"],
        "conv_channels": head["CONV_DIM"],
        "num_fcs": head["NUM_FC"],
        "fc_channels": head["FC_DIM"],
        "norm": norm_of(head["NORM"], "ROI_BOX_HEAD.NORM", HEAD_NORMS),
        "smooth_l1_beta": head["SMOOTH_L1_BETA"],
        "box_loss": head["BBOX_REG_LOSS_TYPE"],
        "box_loss_weight": head["BBOX_REG_LOSS_WEIGHT"],
        "class_loss": "sigmoid" if head.get("USE_SIGMOID_CE") else "softmax",
    }
    if head.get("USE_FED_LOSS"):  # the counts are its data's, not its configuration's
        settings["federated"] = {
            "num_classes_per_image": head["FED_LOSS_NUM_CLASSES"],
            "frequency_power": head["FED_LOSS_FREQ_WEIGHT_POWER"],
        }
    if model["ROI_HEADS"]["NAME"] == "CascadeROIHeads":
        if not head["CLS_AGNOSTIC_BBOX_REG"]:
            raise ValueError("CascadeROIHeads needs ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG True, in Detectron2 as here")
        cascade = model["ROI_BOX_CASCADE_HEAD"]
        return {
            **settings,
            "type": "cascade",
            "ious": tuple(cascade["IOUS"]),
            "box_weights": tuple(tuple(weights) for weights in cascade["BBOX_REG_WEIGHTS"]),
        }
    return {
        **settings,
        "class_agnostic": head["CLS_AGNOSTIC_BBOX_REG"],
        "box_weights": tuple(head["BBOX_REG_WEIGHTS"]),
    }


def _res5_head(model: Mapping[str, Any]) -> dict[str, Any]:
    # Without the layers between pooling and predictions, which are res5's.
    settings = {key: value for key, value in _box_head(model).items() if key in config_of.Res5Head.model_fields}
    return {**settings, "type": "res5"}


def _mask_head(model: Mapping[str, Any]) -> dict[str, Any]:
    head = model["ROI_MASK_HEAD"]
    return {
        # With res5 as the box head nothing is pooled for masks alone.
        **({} if model["ROI_HEADS"]["NAME"] == "Res5ROIHeads" else pooler("ROI_MASK_HEAD", head)),
        "num_convs": head["NUM_CONV"],
        "conv_channels": head["CONV_DIM"],
        "norm": norm_of(head["NORM"], "ROI_MASK_HEAD.NORM", HEAD_NORMS),
        "class_agnostic": head["CLS_AGNOSTIC_MASK"],
    }
