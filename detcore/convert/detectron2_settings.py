"""Settings of a Detectron2 model, from its configuration file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detcore.convert.detectron2_yaml import read_yaml

Settings = dict[str, Any]

_RESNET = {
    "DEPTH": 50,
    "OUT_FEATURES": ["res4"],
    "NUM_GROUPS": 1,
    "NORM": "FrozenBN",
    "WIDTH_PER_GROUP": 64,
    "STRIDE_IN_1X1": True,
    "RES5_DILATION": 1,
    "RES2_OUT_CHANNELS": 256,
    "STEM_OUT_CHANNELS": 64,
    "DEFORM_ON_PER_STAGE": [False, False, False, False],
    "DEFORM_MODULATED": False,
    "DEFORM_NUM_GROUPS": 1,
}
_RPN = {
    "HEAD_NAME": "StandardRPNHead",
    "IN_FEATURES": ["res4"],
    "BOUNDARY_THRESH": -1,
    "IOU_THRESHOLDS": [0.3, 0.7],
    "IOU_LABELS": [0, -1, 1],
    "BATCH_SIZE_PER_IMAGE": 256,
    "POSITIVE_FRACTION": 0.5,
    "BBOX_REG_LOSS_TYPE": "smooth_l1",
    "BBOX_REG_LOSS_WEIGHT": 1.0,
    "BBOX_REG_WEIGHTS": [1.0, 1.0, 1.0, 1.0],
    "SMOOTH_L1_BETA": 0.0,
    "LOSS_WEIGHT": 1.0,
    "PRE_NMS_TOPK_TRAIN": 12000,
    "PRE_NMS_TOPK_TEST": 6000,
    "POST_NMS_TOPK_TRAIN": 2000,
    "POST_NMS_TOPK_TEST": 1000,
    "NMS_THRESH": 0.7,
    "CONV_DIMS": [-1],
}
_ROI_HEADS = {
    "NAME": "Res5ROIHeads",
    "NUM_CLASSES": 80,
    "IN_FEATURES": ["res4"],
    "IOU_THRESHOLDS": [0.5],
    "IOU_LABELS": [0, 1],
    "BATCH_SIZE_PER_IMAGE": 512,
    "POSITIVE_FRACTION": 0.25,
    "SCORE_THRESH_TEST": 0.05,
    "NMS_THRESH_TEST": 0.5,
    "PROPOSAL_APPEND_GT": True,
}
_BOX_HEAD = {
    "NAME": "",
    "BBOX_REG_LOSS_TYPE": "smooth_l1",
    "BBOX_REG_LOSS_WEIGHT": 1.0,
    "BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "SMOOTH_L1_BETA": 0.0,
    "POOLER_RESOLUTION": 14,
    "POOLER_SAMPLING_RATIO": 0,
    "POOLER_TYPE": "ROIAlignV2",
    "NUM_FC": 0,
    "FC_DIM": 1024,
    "NUM_CONV": 0,
    "CONV_DIM": 256,
    "NORM": "",
    "CLS_AGNOSTIC_BBOX_REG": False,
    "TRAIN_ON_PRED_BOXES": False,
    "USE_FED_LOSS": False,
    "USE_SIGMOID_CE": False,
    "FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
    "FED_LOSS_NUM_CLASSES": 50,
}
_RETINANET = {
    "NUM_CLASSES": 80,
    "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "NUM_CONVS": 4,
    "IOU_THRESHOLDS": [0.4, 0.5],
    "IOU_LABELS": [0, -1, 1],
    "PRIOR_PROB": 0.01,
    "SCORE_THRESH_TEST": 0.05,
    "TOPK_CANDIDATES_TEST": 1000,
    "NMS_THRESH_TEST": 0.5,
    "BBOX_REG_WEIGHTS": [1.0, 1.0, 1.0, 1.0],
    "FOCAL_LOSS_GAMMA": 2.0,
    "FOCAL_LOSS_ALPHA": 0.25,
    "SMOOTH_L1_LOSS_BETA": 0.1,
    "BBOX_REG_LOSS_TYPE": "smooth_l1",
    "NORM": "",
}
DEFAULTS: Settings = {
    "MODEL": {
        "MASK_ON": False,
        "KEYPOINT_ON": False,
        "META_ARCHITECTURE": "GeneralizedRCNN",
        "PIXEL_MEAN": [103.53, 116.28, 123.675],
        "PIXEL_STD": [1.0, 1.0, 1.0],
        "BACKBONE": {"NAME": "build_resnet_backbone", "FREEZE_AT": 2},
        "FPN": {"IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": "", "FUSE_TYPE": "sum"},
        "PROPOSAL_GENERATOR": {"NAME": "RPN", "MIN_SIZE": 0},
        "ANCHOR_GENERATOR": {
            "NAME": "DefaultAnchorGenerator",
            "SIZES": [[32, 64, 128, 256, 512]],
            "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
            "ANGLES": [[-90, 0, 90]],
            "OFFSET": 0.0,
        },
        "RPN": _RPN,
        "ROI_HEADS": _ROI_HEADS,
        "ROI_BOX_HEAD": _BOX_HEAD,
        "ROI_BOX_CASCADE_HEAD": {
            "BBOX_REG_WEIGHTS": [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0]],
            "IOUS": [0.5, 0.6, 0.7],
        },
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "POOLER_RESOLUTION": 14,
            "POOLER_SAMPLING_RATIO": 0,
            "NUM_CONV": 0,
            "CONV_DIM": 256,
            "NORM": "",
            "CLS_AGNOSTIC_MASK": False,
            "POOLER_TYPE": "ROIAlignV2",
        },
        "ROI_KEYPOINT_HEAD": {
            "NAME": "KRCNNConvDeconvUpsampleHead",
            "POOLER_RESOLUTION": 14,
            "POOLER_SAMPLING_RATIO": 0,
            "CONV_DIMS": [512] * 8,
            "NUM_KEYPOINTS": 17,
            "MIN_KEYPOINTS_PER_IMAGE": 1,
            "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True,
            "LOSS_WEIGHT": 1.0,
            "POOLER_TYPE": "ROIAlignV2",
        },
        "SEM_SEG_HEAD": {
            "NAME": "SemSegFPNHead",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "IGNORE_VALUE": 255,
            "NUM_CLASSES": 54,
            "CONVS_DIM": 128,
            "COMMON_STRIDE": 4,
            "NORM": "GN",
            "LOSS_WEIGHT": 1.0,
        },
        "PANOPTIC_FPN": {
            "INSTANCE_LOSS_WEIGHT": 1.0,
            "COMBINE": {
                "ENABLED": True,
                "OVERLAP_THRESH": 0.5,
                "STUFF_AREA_LIMIT": 4096,
                "INSTANCES_CONFIDENCE_THRESH": 0.5,
            },
        },
        "RETINANET": _RETINANET,
        "RESNETS": _RESNET,
    },
    "INPUT": {"FORMAT": "BGR", "MIN_SIZE_TEST": 800, "MAX_SIZE_TEST": 1333},
    "TEST": {"DETECTIONS_PER_IMAGE": 100},
}
"""What a configuration file leaves out; only the keys that are translated."""


def read_settings(file: Path) -> Settings:
    """A configuration file of Detectron2's with what it is based on and the defaults.

    Raises:
        ValueError: the file, or one that it is based on, is absent or no configuration, or it is one of Python's.
    """
    stated = _with_base(file, ())
    if is_lazy(stated):
        raise ValueError(
            f"{file} is what a LazyConfig in Python was written to, which is not read: leave it out, and the tensors "
            "tell the model"
        )
    return merged(DEFAULTS, _of_their_kinds(DEFAULTS, stated, str(file)))


def is_lazy(stated: Mapping[str, Any]) -> bool:
    """Whether a file's keys are those of Detectron2's configurations in Python."""
    return "model" in stated and "MODEL" not in stated


def _of_their_kinds(defaults: Settings, stated: Settings, source: str, above: str = "") -> Settings:
    """`stated`, each value of the kind that its default is of; one that is left blank is an empty text."""
    checked = dict(stated)
    for key, default in defaults.items():
        if key not in stated:
            continue
        value, path = stated[key], above + key
        if isinstance(default, str) and value is None:
            checked[key] = ""
        elif isinstance(default, Mapping) and isinstance(value, Mapping):
            checked[key] = _of_their_kinds(dict(default), dict(value), source, f"{path}.")
        elif not isinstance(value, _KINDS[type(default)][0]):
            raise ValueError(f"{source}: {path} is {value!r}, not {_KINDS[type(default)][1]}")
    return checked


_KINDS: dict[type, tuple[Any, str]] = {
    dict: (Mapping, "a node of keys"),
    list: ((list, tuple), "a list"),
    str: (str, "a text"),
    bool: ((bool, int), "True or False"),
    int: ((int, float), "a number"),
    float: ((int, float), "a number"),
}


def _with_base(file: Path, above: tuple[Path, ...]) -> Settings:
    file = file.resolve()
    if not file.is_file():
        based = f", which {above[-1]} is based on" if above else ""
        raise ValueError(f"there is no file {file}{based}")
    if file in above:
        raise ValueError(f"{file} is based on itself")
    content = read_yaml(file)
    base = content.pop("_BASE_", None)
    return merged(_with_base(file.parent / str(base), (*above, file)), content) if base else content


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Settings:
    """`base` with `changes` written over it, key by key."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result
