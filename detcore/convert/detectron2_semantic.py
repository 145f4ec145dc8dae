"""Detectron2's names and keys of the detectors that say the class of every pixel, or draw finer masks."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detcore.config import model as config_of
from detcore.convert.names import Rule

POINT_REND_HEADS = ("PointRendMaskHead", "CoarseMaskHead")
"""ROI_MASK_HEAD.NAME, now and before."""
_FPN_NORMS = {"GN": "gn", "": "none"}
_BATCH_NORMS = {"BN": "bn", "SyncBN": "bn", "GN": "gn", "": "none"}


def semantic_head_rules(config: config_of.ModelConfig) -> list[Rule]:
    """For the head of `config`, if it has one."""
    match config:
        case config_of.SemanticFPN() | config_of.PanopticFPN():
            backbone = config.backbone
            finest = 2
            if isinstance(backbone, config_of.ResNetBackbone):
                finest = int(backbone.out_features[0].removeprefix("res"))
            levels = Rule("sem_seg_head.p{n}.", "semantic_head.levels.{n}.", -finest)
            return [levels, Rule("sem_seg_head.predictor.", "semantic_head.predictor.")]
        case config_of.DeepLab():
            return _deeplab_rules(config)
        case config_of.PointRend():
            return _POINT_REND_RULES
    return []


def _deeplab_rules(config: config_of.DeepLab) -> list[Rule]:
    assert isinstance(config.backbone, config_of.ResNetBackbone)
    *finer, last = config.backbone.out_features
    aspp = f"sem_seg_head.decoder.{last}.project_conv." if finer else "sem_seg_head.aspp."
    pooled = len(config.semantic_head.aspp_rates) + 1
    parts = (("depthwise.", "0."), ("pointwise.", "1.")) if config.semantic_head.separable else ()
    rules = [Rule(f"{aspp}convs.{pooled}.1.", "semantic_head.aspp.whole.")]
    for index in range(1, pooled):
        branch = f"semantic_head.aspp.branches.{index}."
        rules += [Rule(f"{aspp}convs.{index}.{theirs}", branch + ours) for theirs, ours in parts]
    rules.append(Rule(f"{aspp}convs.", "semantic_head.aspp.branches."))
    rules.append(Rule(f"{aspp}project.", "semantic_head.aspp.project."))
    for index, stage in enumerate(finer):
        decoder, fuse = f"sem_seg_head.decoder.{stage}.", f"semantic_head.fuse.{index}."
        rules += [Rule(f"{decoder}fuse_conv.{theirs}", fuse + ours) for theirs, ours in parts]
        rules.append(Rule(f"{decoder}fuse_conv.", fuse))
        rules.append(Rule(f"{decoder}project_conv.", f"semantic_head.narrow.{index}."))
    return [*rules, Rule("sem_seg_head.predictor.", "semantic_head.predictor.")]


def _without_length(weight: Tensor) -> Tensor:
    """Theirs are convolutions along the points."""
    return weight.flatten(1) if weight.dim() == 3 else weight


def _with_length(weight: Tensor) -> Tensor:
    return weight[:, :, None] if weight.dim() == 2 else weight


_COARSE, _POINTS = "roi_heads.mask_head.coarse_head.", "roi_heads.mask_head.point_head."
_POINT_REND_RULES = [
    Rule(f"{_COARSE}reduce_channel_dim_conv.", "mask_head.narrow."),
    Rule(f"{_COARSE}reduce_spatial_dim_conv.", "mask_head.reduce."),
    Rule(f"{_COARSE}fc{{n}}.", "mask_head.fcs.{n}.", -1),
    Rule(f"{_COARSE}prediction.", "mask_head.predictor."),
    Rule(f"{_POINTS}fc{{n}}.", "point_head.fcs.{n}.", -1, _without_length, _with_length),
    Rule(f"{_POINTS}predictor.", "point_head.predictor.", 0, _without_length, _with_length),
]


def semantic_fpn_head(model: Mapping[str, Any]) -> dict[str, Any]:
    """Our section of the head.

    Raises:
        ValueError: for a setting that has no counterpart here.
    """
    head = model["SEM_SEG_HEAD"]
    levels = [stage.replace("res", "p") for stage in model["FPN"]["IN_FEATURES"]]
    if list(head["IN_FEATURES"]) != levels:
        raise ValueError(f"SEM_SEG_HEAD.IN_FEATURES is {head['IN_FEATURES']}: here the head takes {levels}")
    if head["NORM"] not in _FPN_NORMS:
        raise ValueError(f"SEM_SEG_HEAD.NORM is {head['NORM']!r}: here it is 'GN' or ''")
    if head["IGNORE_VALUE"] != 255:
        raise ValueError(f"SEM_SEG_HEAD.IGNORE_VALUE is {head['IGNORE_VALUE']}: here 255 alone does not count")
    return {
        "channels": head["CONVS_DIM"],
        "norm": _FPN_NORMS[head["NORM"]],
        "stride": head["COMMON_STRIDE"],
        "loss_weight": head["LOSS_WEIGHT"],
    }


def panoptic_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """What Panoptic FPN has besides Mask R-CNN's settings."""
    combine = model["PANOPTIC_FPN"]["COMBINE"]
    return {
        "semantic_classes": model["SEM_SEG_HEAD"]["NUM_CLASSES"],
        "semantic_head": semantic_fpn_head(model),
        "instance_loss_weight": model["PANOPTIC_FPN"]["INSTANCE_LOSS_WEIGHT"],
        "panoptic": {
            "instance_confidence": combine["INSTANCES_CONFIDENCE_THRESH"],
            "overlap_threshold": combine["OVERLAP_THRESH"],
            "stuff_area_limit": combine["STUFF_AREA_LIMIT"],
        },
    }


def semantic_config(
    model: Mapping[str, Any], *, name: str, backbone: Mapping[str, Any], neck: Mapping[str, Any]
) -> config_of.ModelConfig:
    """Our section for a SemanticSegmentor.

    Raises:
        ValueError: for a head that has no counterpart here.
    """
    head = model["SEM_SEG_HEAD"]
    settings = {"name": name, "num_classes": head["NUM_CLASSES"], "backbone": backbone}
    match head["NAME"]:
        case "SemSegFPNHead":
            return config_of.SemanticFPN.model_validate(
                {**settings, "neck": neck, "semantic_head": semantic_fpn_head(model)}
            )
        case "DeepLabV3PlusHead" | "DeepLabV3Head":
            dilated = {**backbone, **_dilation(model["RESNETS"])}
            return config_of.DeepLab.model_validate(
                {**settings, "backbone": dilated, "semantic_head": _deeplab_head(model)}
            )
    raise ValueError(f"SEM_SEG_HEAD.NAME is {head['NAME']}: there are SemSegFPNHead, DeepLabV3Head, DeepLabV3PlusHead")


def _dilation(resnet: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "deeplab_resnet",
        "stem": resnet.get("STEM_TYPE", "basic"),
        "res4_dilation": resnet.get("RES4_DILATION", 1),
        "res5_dilation": resnet["RES5_DILATION"],
        "res5_multi_grid": tuple(resnet.get("RES5_MULTI_GRID", (1, 1, 1))),
    }


def _deeplab_head(model: Mapping[str, Any]) -> dict[str, Any]:
    head = model["SEM_SEG_HEAD"]
    plus = head["NAME"] == "DeepLabV3PlusHead"
    crop = model.get("INPUT", {}).get("CROP", {"ENABLED": False})
    return {
        "aspp_channels": head["ASPP_CHANNELS"],
        "aspp_rates": tuple(head["ASPP_DILATIONS"]),
        "pool_size": tuple(crop["SIZE"]) if crop["ENABLED"] else None,
        "dropout": head["ASPP_DROPOUT"],
        "low_level_channels": tuple(head["PROJECT_CHANNELS"]) if plus else (),
        "decoder_channels": head["CONVS_DIM"],
        "separable": head["USE_DEPTHWISE_SEPARABLE_CONV"],
        "norm": _BATCH_NORMS[head["NORM"]],
        "hardest_pixels": 0.2 if head["LOSS_TYPE"] == "hard_pixel_mining" else 1.0,
        "loss_weight": head["LOSS_WEIGHT"],
    }


def point_rend_settings(model: Mapping[str, Any]) -> dict[str, Any]:
    """What PointRend has besides Faster R-CNN's settings.

    Raises:
        ValueError: for a setting that has no counterpart here.
    """
    coarse, points = model["ROI_MASK_HEAD"], model["POINT_HEAD"]
    finest = [model["ROI_HEADS"]["IN_FEATURES"][0]]
    if not coarse["POINT_HEAD_ON"] or list(coarse["IN_FEATURES"]) != finest or list(points["IN_FEATURES"]) != finest:
        raise ValueError(f"PointRend here has a point head, and takes features for masks and points from {finest[0]}")
    return {
        "mask_head": {
            "pooler_resolution": coarse["POOLER_RESOLUTION"],
            "conv_channels": coarse["CONV_DIM"],
            "num_fcs": coarse["NUM_FC"],
            "fc_channels": coarse["FC_DIM"],
            "mask_size": coarse["OUTPUT_SIDE_RESOLUTION"],
        },
        "point_head": {
            "num_fcs": points["NUM_FC"],
            "fc_channels": points["FC_DIM"],
            "class_agnostic": points["CLS_AGNOSTIC_MASK"],
            "coarse_in_each_layer": points["COARSE_PRED_EACH_LAYER"],
            "train_points": points["TRAIN_NUM_POINTS"],
            "oversampling": points["OVERSAMPLE_RATIO"],
            "importance": points["IMPORTANCE_SAMPLE_RATIO"],
            "subdivisions": points["SUBDIVISION_STEPS"],
            "subdivision_points": points["SUBDIVISION_NUM_POINTS"],
        },
    }
