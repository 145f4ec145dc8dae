"""What the tensors of torchvision's detectors tell: their architecture, as our sections."""

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detcore.config import model as config_of
from detcore.models.backbones.resnet import BASIC_DEPTHS, NUM_BLOCKS, STAGES

BODY = "backbone.body."
CLASS_TOWER, BOX_TOWER = "head.classification_head.", "head.regression_head."
_OLDER_NAMES = (
    (r"(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)", r"\1.0.\2"),
    (r"rpn\.head\.conv\.(weight|bias)", r"rpn.head.conv.0.0.\1"),
)

State = dict[str, Tensor]
Convertible = config_of.FasterRCNN | config_of.MaskRCNN | config_of.KeypointRCNN | config_of.RetinaNet | config_of.FCOS


def is_dense(state: Mapping[str, Tensor]) -> bool:
    return f"{CLASS_TOWER}cls_logits.weight" in state


def has_keypoints(state: Mapping[str, Tensor]) -> bool:
    return "roi_heads.keypoint_predictor.kps_score_lowres.weight" in state


def number_of_outputs(state: Mapping[str, Tensor]) -> int:
    """Of the classes, the background's included."""
    if not is_dense(state):
        return len(state["roi_heads.box_predictor.cls_score.bias"])
    boxes = len(state[f"{BOX_TOWER}bbox_reg.bias"]) // 4
    return len(state[f"{CLASS_TOWER}cls_logits.bias"]) // boxes


def current_names(state: Mapping[str, Tensor], *, source: str) -> State:
    """With the names of today's torchvision, layers counted without those that have no weights.

    Raises:
        ValueError: these are no tensors of a detector that is converted.
    """
    heads = (f"{CLASS_TOWER}cls_logits.weight", "roi_heads.box_predictor.cls_score.weight")
    needed = (f"{BODY}conv1.weight", f"{BODY}layer4.0.conv1.weight")
    if not all(name in state for name in needed) or not any(name in state for name in heads):
        raise ValueError(
            f"{source}: no state_dict of torchvision's Faster, Mask or Keypoint R-CNN, RetinaNet or FCOS with a ResNet "
            "and a feature pyramid: only these are converted"
        )
    layers_each = 3 if f"{BOX_TOWER}bbox_ctrness.weight" in state else 2
    fcs = sorted(
        int(found[1])
        for name, tensor in state.items()
        if (found := re.fullmatch(r"roi_heads\.box_head\.(\d+)\.weight", name)) and tensor.dim() == 2
    )

    def current(name: str) -> str:
        for older, newer in _OLDER_NAMES:
            name = re.sub(older + "$", newer, name)
        if found := re.fullmatch(r"roi_heads\.mask_head\.mask_fcn(\d+)\.(\w+)", name):
            return f"roi_heads.mask_head.{int(found[1]) - 1}.0.{found[2]}"
        if found := re.fullmatch(r"(head\.\w+_head\.conv)\.(\d+)\.(\w+)", name):
            place = int(found[2])
            return f"{found[1]}.{place // layers_each}.{place % layers_each}.{found[3]}"
        if found := re.fullmatch(r"roi_heads\.keypoint_head\.(\d+)\.(\w+)", name):
            return f"roi_heads.keypoint_head.{int(found[1]) // 2}.0.{found[2]}"
        if found := re.fullmatch(r"roi_heads\.box_head\.fc(\d+)\.(\w+)", name):
            return f"roi_heads.box_head.fc.{int(found[1]) - 6}.{found[2]}"
        if (found := re.fullmatch(r"roi_heads\.box_head\.(\d+)\.(\w+)", name)) and int(found[1]) in fcs:
            return f"roi_heads.box_head.fc.{fcs.index(int(found[1]))}.{found[2]}"
        return name

    return {current(name): tensor for name, tensor in state.items()}


def model_config(state: State, *, name: str, num_classes: int) -> Convertible:
    """Our section for a detector of these tensors; what they do not tell is as in the published models.

    Args:
        state: as `current_names` gives it.

    Raises:
        ValueError: for an architecture that has no counterpart here.
    """
    shared = {"name": name, "num_classes": num_classes, "backbone": _backbone(state), "neck": _neck(state)}
    if is_dense(state):
        return _dense(state, shared)
    return _two_stage(state, shared)


def _count(state: State, pattern: str) -> int:
    """How many numbers stand for N in the names."""
    compiled = re.compile(re.escape(pattern).replace("N", r"(\d+)"))
    return len({found[1] for name in state if (found := compiled.fullmatch(name))})


def _backbone(state: State) -> dict[str, Any]:
    blocks = tuple(_count(state, f"{BODY}layer{stage}.N.conv1.weight") for stage in range(1, 5))
    bottleneck = f"{BODY}layer1.0.conv3.weight" in state
    depths = [
        depth for depth, each in NUM_BLOCKS.items() if each == blocks and (depth not in BASIC_DEPTHS) == bottleneck
    ]
    if not depths:
        raise ValueError(f"a ResNet of {blocks} blocks has no counterpart here; there are {NUM_BLOCKS}")
    inner = state[f"{BODY}layer1.0.conv2.weight"]
    groups = len(inner) // inner.shape[1]
    trained = f"{BODY}bn1.num_batches_tracked" in state
    return {
        "type": "resnet",
        "weights": "converted",  # the model's own: frozen as they are
        "depth": depths[0],
        "norm": "bn" if trained else "frozen_bn",
        "frozen_stages": 0 if trained else 2,
        "stride_in_1x1": False,
        "stem_channels": len(state[f"{BODY}conv1.weight"]),
        "res2_channels": len(state[f"{BODY}layer1.0.conv{3 if bottleneck else 2}.weight"]),
        **({"groups": groups, "width_per_group": len(inner) // groups} if bottleneck else {}),
        "out_features": STAGES[-_count(state, "backbone.fpn.inner_blocks.N.0.weight") :],
    }


def _neck(state: State) -> dict[str, Any]:
    channels = len(state["backbone.fpn.inner_blocks.0.0.weight"])
    p6 = state.get("backbone.fpn.extra_blocks.p6.weight")
    if p6 is None:
        return {"channels": channels, "top": "max_pool"}
    return {"channels": channels, "top": "p6p7_from_fpn" if p6.shape[1] == channels else "p6p7_from_backbone"}


def _dense(state: State, shared: dict[str, Any]) -> config_of.RetinaNet | config_of.FCOS:
    num_levels = _count(state, "backbone.fpn.inner_blocks.N.0.weight") + 2
    num_anchors = len(state[f"{BOX_TOWER}bbox_reg.bias"]) // 4
    group_norm = f"{CLASS_TOWER}conv.0.1.weight" in state and f"{CLASS_TOWER}conv.0.1.running_var" not in state
    is_fcos = f"{BOX_TOWER}bbox_ctrness.weight" in state
    if num_levels != 5 or num_anchors != (1 if is_fcos else 9):
        raise ValueError(
            f"{num_anchors} anchors at each place of {num_levels} levels: tensors do not tell their sizes, so only the "
            "published ones are converted, 9 (FCOS 1) on 5 levels"
        )
    shared |= {
        "head": {
            "num_convs": _count(state, f"{CLASS_TOWER}conv.N.0.weight"),
            "norm": "gn" if group_norm else "none",
        },
        "normalizer": "batch",
    }
    if is_fcos:
        return config_of.FCOS.model_validate(
            {**shared, "offset": 0.0, "fitted_steps": True, "selection": {"clip_before_nms": True}}
        )
    sizes = [tuple(int(size * 2 ** (third / 3)) for third in range(3)) for size in (32, 64, 128, 256, 512)]
    return config_of.RetinaNet.model_validate(
        {
            **shared,
            "anchors": {"sizes": sizes, "rounded": True, "fitted_steps": True},
            "box_loss": "giou" if group_norm else "smooth_l1",  # v2's
            "selection": {"clip_before_nms": True, "max_detections": 300},
        }
    )


def _two_stage(
    state: State, shared: dict[str, Any]
) -> config_of.FasterRCNN | config_of.MaskRCNN | config_of.KeypointRCNN:
    num_levels = _count(state, "backbone.fpn.inner_blocks.N.0.weight")
    num_anchors = len(state["rpn.head.cls_logits.bias"])
    if num_levels != 4 or num_anchors != 3 or "backbone.fpn.extra_blocks.p6.weight" in state:
        raise ValueError(
            f"{num_anchors} anchors at each place of a pyramid over {num_levels} stages: tensors do not tell their "
            "sizes, so only the published ones are converted, 3 on P2 to P6"
        )
    num_convs = _count(state, "roi_heads.box_head.N.0.weight")
    first = state["roi_heads.box_head.fc.0.weight"]
    channels = len(state["roi_heads.box_head.0.0.weight"]) if num_convs else shared["neck"]["channels"]
    pooling = {"sampling_ratio": 2, "aligned": False}
    settings = {
        **shared,
        "rpn": {
            "anchors": {"rounded": True, "fitted_steps": True},
            "conv_channels": (None,) * _count(state, "rpn.head.conv.N.0.weight"),
            "post_nms_topk_train": 2000,
            "min_box_size": 1e-3,
            "smooth_l1_beta": 1 / 9,
        },
        "box_head": {
            **pooling,
            "pooler_resolution": math.isqrt(first.shape[1] // channels),
            "num_convs": num_convs,
            "conv_channels": channels,
            "num_fcs": _count(state, "roi_heads.box_head.fc.N.weight"),
            "fc_channels": len(first),
            "smooth_l1_beta": 1 / 9,
        },
    }
    masks = None
    if "roi_heads.mask_predictor.mask_fcn_logits.weight" in state:
        width = state["roi_heads.mask_predictor.conv5_mask.weight"].shape[0]
        masks = {**pooling, "num_convs": _count(state, "roi_heads.mask_head.N.0.weight"), "conv_channels": width}
    if has_keypoints(state):
        layers = range(_count(state, "roi_heads.keypoint_head.N.0.weight"))
        keypoints = {
            **pooling,
            "num_keypoints": len(state["roi_heads.keypoint_predictor.kps_score_lowres.bias"]),
            "conv_channels": tuple(len(state[f"roi_heads.keypoint_head.{layer}.0.weight"]) for layer in layers),
        }
        return config_of.KeypointRCNN.model_validate({**settings, "keypoint_head": keypoints, "mask_head": masks})
    if masks is not None:
        return config_of.MaskRCNN.model_validate({**settings, "mask_head": masks})
    return config_of.FasterRCNN.model_validate(settings)
