"""Settings of a Detectron2 model from nothing but its tensors: what these do not tell is as in the published models."""

import re
from collections.abc import Mapping

from torch import Tensor

from detcore.convert.detectron2_settings import DEFAULTS, Settings, merged
from detcore.convert.mvit import mvit_section
from detcore.convert.timm_backbones import regnet_section, swin_section
from detcore.convert.vit import vit_sections

_BLOCKS_OF_RES4 = {(True, 6): 50, (True, 23): 101, (True, 36): 152, (False, 2): 18, (False, 6): 34}
"""(bottleneck or not, blocks) -> depth."""
_SIZES, _LEVELS = [[32], [64], [128], [256], [512]], ["p2", "p3", "p4", "p5", "p6"]
_VITDETS_SQUARE = 1024
_RESNEXT_STD = [57.375, 57.12, 58.395]
"""The published ResNeXts, unlike the ResNets, want images of variance 1."""


def guess_settings(state: Mapping[str, Tensor]) -> Settings:
    """The settings of a published model that has these tensors.

    Not to be seen from them are the strides' place in a block (taken to be the 3x3 in grouped networks, else the 1x1),
    anchors, thresholds and loss weights.

    Raises:
        ValueError: they are of no family of published models.
    """
    if not any(name.startswith("backbone.") for name in state):
        raise ValueError(f"no tensor is called backbone.…, so this is no detector of Detectron2's: {sorted(state)[:3]}")
    if "backbone.net.pos_embed" in state:
        return merged(DEFAULTS, _vitdet(state))
    if (found := _hierarchical(state)) is not None:
        return merged(DEFAULTS, found)
    settings = merged(_resnet(state), _neck(state))
    if "head.cls_score.weight" in state:
        family = _retinanet(state)
    elif any(name.startswith("proposal_generator.") for name in state):
        family = _rcnn(state)
    elif any(name.startswith("sem_seg_head.") for name in state):
        family = merged({"META_ARCHITECTURE": "SemanticSegmentor"}, _semantic(state))
    else:
        raise ValueError("no head that is known: give its configuration with --config")
    return merged(DEFAULTS, {"MODEL": merged(settings, family)})


def _backbone_prefix(state: Mapping[str, Tensor]) -> str:
    return "backbone.bottom_up." if any(name.startswith("backbone.bottom_up.") for name in state) else "backbone."


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers the pattern's group takes."""
    return len({found[1] for name in state if (found := re.match(pattern, name))})


def _norm(state: Mapping[str, Tensor], conv: str) -> str:
    if f"{conv}.norm.running_mean" in state:
        return "BN" if f"{conv}.norm.num_batches_tracked" in state else "FrozenBN"
    return "GN" if f"{conv}.norm.weight" in state else ""


def _resnet(state: Mapping[str, Tensor]) -> Settings:
    prefix = _backbone_prefix(state)
    first = f"{prefix}res2.0."
    if f"{first}conv1.weight" not in state or f"{prefix}stem.conv1.weight" not in state:
        raise ValueError("its backbone is none that is known: give its configuration with --config")
    bottleneck = f"{first}conv3.weight" in state
    blocks = _count(state, rf"{re.escape(prefix)}res4\.(\d+)\.")
    depth = _BLOCKS_OF_RES4.get((bottleneck, blocks))
    if depth is None:
        raise ValueError(f"a ResNet with {blocks} blocks in res4 is not known")
    middle = state[f"{first}conv2.weight"]
    groups = middle.shape[0] // middle.shape[1]
    stages = [f"res{n}" for n in (2, 3, 4, 5) if f"{prefix}res{n}.0.conv1.weight" in state]
    offsets = [state.get(f"{prefix}res{n}.0.conv2_offset.weight") for n in (2, 3, 4, 5)]
    deform = next((weight for weight in offsets if weight is not None), None)
    settings = {
        "RESNETS": {
            "DEPTH": depth,
            "OUT_FEATURES": stages,
            "NUM_GROUPS": groups,
            "WIDTH_PER_GROUP": middle.shape[0] // groups if bottleneck else 64,
            "NORM": _norm(state, f"{prefix}stem.conv1"),
            "STRIDE_IN_1X1": groups == 1,
            "STEM_OUT_CHANNELS": state[f"{prefix}stem.conv1.weight"].shape[0],
            "RES2_OUT_CHANNELS": state[f"{first}conv{3 if bottleneck else 2}.weight"].shape[0],
            "DEFORM_ON_PER_STAGE": [weight is not None for weight in offsets],
            "DEFORM_MODULATED": deform is not None and deform.shape[0] % 27 == 0,
            "DEFORM_NUM_GROUPS": 1
            if deform is None
            else max(1, deform.shape[0] // 27 if deform.shape[0] % 27 == 0 else deform.shape[0] // 18),
        },
        "PIXEL_STD": _RESNEXT_STD if groups > 1 else DEFAULTS["MODEL"]["PIXEL_STD"],
    }
    for name, key in (("pixel_mean", "PIXEL_MEAN"), ("pixel_std", "PIXEL_STD")):
        if name in state:
            settings[key] = state[name].flatten().tolist()
    return settings


def _neck(state: Mapping[str, Tensor]) -> Settings:
    levels = sorted(int(found[1]) for name in state if (found := re.match(r"backbone\.fpn_output(\d)\.weight", name)))
    if not levels:
        last = "res5" if f"{_backbone_prefix(state)}res5.0.conv1.weight" in state else "res4"
        return {
            "RESNETS": {"OUT_FEATURES": [last], "RES5_DILATION": 2 if last == "res5" else 1},
            "RPN": {"IN_FEATURES": [last]},
            "ROI_HEADS": {"IN_FEATURES": [last]},
        }
    output = state[f"backbone.fpn_output{levels[0]}.weight"]
    stages = [f"res{level}" for level in levels]
    return {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {"OUT_FEATURES": stages},
        "FPN": {
            "IN_FEATURES": stages,
            "OUT_CHANNELS": output.shape[0],
            "NORM": _norm(state, f"backbone.fpn_output{levels[0]}"),
        },
    }


def _rcnn(state: Mapping[str, Tensor]) -> Settings:
    fpn = any(name.startswith(("backbone.fpn_", "backbone.simfp_")) for name in state)
    per_place = state["proposal_generator.rpn_head.objectness_logits.weight"].shape[0]
    if state["proposal_generator.rpn_head.anchor_deltas.weight"].shape[0] != 4 * per_place:
        raise ValueError("rotated boxes: their anchors' angles are not to be seen from tensors; give --config")
    if per_place != (3 if fpn else 15):
        raise ValueError(f"{per_place} anchors a place are not those of published models; give --config")
    settings: Settings = {}
    if fpn:
        settings = {
            "ANCHOR_GENERATOR": {"SIZES": _SIZES},
            "RPN": {
                "IN_FEATURES": _LEVELS,
                "PRE_NMS_TOPK_TRAIN": 2000,
                "PRE_NMS_TOPK_TEST": 1000,
                "POST_NMS_TOPK_TRAIN": 1000,
                "POST_NMS_TOPK_TEST": 1000,
            },
            "ROI_HEADS": {"IN_FEATURES": _LEVELS[:4]},
        }
    settings = merged(settings, {"RPN": {"CONV_DIMS": _rpn_widths(state)}})
    if not any(name.startswith("roi_heads.") for name in state):
        return merged(settings, {"META_ARCHITECTURE": "ProposalNetwork", "RPN": {"POST_NMS_TOPK_TEST": 2000}})
    settings = merged(settings, _box_head(state))
    if "roi_heads.mask_head.predictor.weight" in state:
        settings = merged(settings, _mask_head(state))
    if "roi_heads.keypoint_head.score_lowres.weight" in state:
        settings = merged(settings, _keypoint_head(state))
    if any(name.startswith("sem_seg_head.") for name in state):
        settings = merged(settings, {"META_ARCHITECTURE": "PanopticFPN", **_semantic(state)})
    return settings


def _rpn_widths(state: Mapping[str, Tensor]) -> list[int]:
    """Of its convolutions; -1 where it is the width before."""
    head = "proposal_generator.rpn_head.conv"
    several = _count(state, rf"{re.escape(head)}\.conv(\d+)\.weight")
    weights = [state[f"{head}.conv{n}.weight"] for n in range(several)] or [state[f"{head}.weight"]]
    return [-1 if weight.shape[0] == weight.shape[1] else weight.shape[0] for weight in weights]


def _box_head(state: Mapping[str, Tensor]) -> Settings:
    if "roi_heads.res5.0.conv1.weight" in state:
        scores = state["roi_heads.box_predictor.cls_score.weight"]
        return {"ROI_HEADS": {"NAME": "Res5ROIHeads", "NUM_CLASSES": scores.shape[0] - 1}}
    cascade = "roi_heads.box_head.0.fc1.weight" in state
    stage = ".0" if cascade else ""
    head, predictor = f"roi_heads.box_head{stage}", f"roi_heads.box_predictor{stage}"
    scores, boxes = state[f"{predictor}.cls_score.weight"], state[f"{predictor}.bbox_pred.weight"]
    num_fcs = _count(state, rf"{re.escape(head)}\.fc(\d+)\.weight")
    num_convs = _count(state, rf"{re.escape(head)}\.conv(\d+)\.weight")
    stages = _count(state, r"roi_heads\.box_predictor\.(\d+)\.")
    if cascade and stages != len(DEFAULTS["MODEL"]["ROI_BOX_CASCADE_HEAD"]["IOUS"]):
        raise ValueError(f"a cascade of {stages} stages: published ones have three; give --config")
    return {
        **({"RPN": {"POST_NMS_TOPK_TRAIN": 2000}} if cascade else {}),
        "ROI_HEADS": {
            "NAME": "CascadeROIHeads" if cascade else "StandardROIHeads",
            "NUM_CLASSES": scores.shape[0] - 1,
        },
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead",
            "POOLER_RESOLUTION": 7,
            "NUM_FC": num_fcs,
            "FC_DIM": state[f"{head}.fc1.weight"].shape[0] if num_fcs else 1024,
            "NUM_CONV": num_convs,
            "CONV_DIM": state[f"{head}.conv1.weight"].shape[0] if num_convs else 256,
            "NORM": _norm(state, f"{head}.conv1") if num_convs else "",
            "CLS_AGNOSTIC_BBOX_REG": boxes.shape[0] == 4 and (cascade or scores.shape[0] > 2),
        },
    }


def _mask_head(state: Mapping[str, Tensor]) -> Settings:
    head = "roi_heads.mask_head"
    classes = state[f"{head}.predictor.weight"].shape[0]
    return {
        "MASK_ON": True,
        "ROI_MASK_HEAD": {
            "NUM_CONV": _count(state, rf"{re.escape(head)}\.mask_fcn(\d+)\.weight"),
            "CONV_DIM": state[f"{head}.deconv.weight"].shape[1],
            "NORM": _norm(state, f"{head}.mask_fcn1"),
            "CLS_AGNOSTIC_MASK": classes == 1 and _num_classes(state) > 1,
        },
    }


def _num_classes(state: Mapping[str, Tensor]) -> int:
    return next(weight.shape[0] for name, weight in state.items() if name.endswith("cls_score.weight")) - 1


def _keypoint_head(state: Mapping[str, Tensor]) -> Settings:
    head = "roi_heads.keypoint_head"
    count = _count(state, rf"{re.escape(head)}\.conv_fcn(\d+)\.weight")
    return {
        "KEYPOINT_ON": True,
        "ROI_KEYPOINT_HEAD": {
            "CONV_DIMS": [state[f"{head}.conv_fcn{n + 1}.weight"].shape[0] for n in range(count)],
            "NUM_KEYPOINTS": state[f"{head}.score_lowres.weight"].shape[1],
        },
        "RPN": {"POST_NMS_TOPK_TRAIN": 1500},
        "ROI_BOX_HEAD": {"SMOOTH_L1_BETA": 0.5},
    }


def _semantic(state: Mapping[str, Tensor]) -> Settings:
    if "sem_seg_head.p2.0.weight" not in state:
        raise ValueError("its semantic head is not Panoptic FPN's; give its configuration with --config")
    return {
        "SEM_SEG_HEAD": {
            "NUM_CLASSES": state["sem_seg_head.predictor.weight"].shape[0],
            "CONVS_DIM": state["sem_seg_head.p2.0.weight"].shape[0],
            "NORM": _norm(state, "sem_seg_head.p2.0"),
            "LOSS_WEIGHT": 0.5,
        }
    }


def _retinanet(state: Mapping[str, Tensor]) -> Settings:
    boxes, scores = state["head.bbox_pred.weight"].shape[0], state["head.cls_score.weight"].shape[0]
    if boxes != 4 * 9:
        raise ValueError(f"{boxes // 4} anchors a place are not those of published RetinaNets; give --config")
    # Norms stand between the convolutions, and are no matrices.
    tower = [weight for name, weight in state.items() if re.match(r"head\.cls_subnet\.\d+\.weight", name)]
    convs = [weight for weight in tower if weight.dim() == 4]
    sizes = [[base * 2 ** (step / 3) for step in range(3)] for base in (32, 64, 128, 256, 512)]
    return {
        "META_ARCHITECTURE": "RetinaNet",
        "BACKBONE": {"NAME": "build_retinanet_resnet_fpn_backbone"},
        "ANCHOR_GENERATOR": {"SIZES": sizes},
        "RETINANET": {
            "NUM_CLASSES": scores // 9,
            "NUM_CONVS": len(convs),
            "NORM": "" if len(convs) == len(tower) else "GN",
            "SMOOTH_L1_LOSS_BETA": 0.0,
        },
    }


def _vitdet(state: Mapping[str, Tensor]) -> Settings:
    """All of the settings: published ViTDets have no such configuration file."""
    backbone, neck = vit_sections(state)
    model = {**_with_layer_norms(_rcnn(state)), "BACKBONE": {"NAME": "vit", "SECTION": backbone, "NECK": neck}}
    return {"MODEL": model, "INPUT": _square(backbone["square_size"])}


def _hierarchical(state: Mapping[str, Tensor]) -> Settings | None:
    """All of the settings of a detector with a Swin or multiscale transformer or a RegNet; None where it has none."""
    transformer = swin_section(state) or mvit_section(state)
    section = transformer or regnet_section(state)
    if section is None:
        return None
    neck, heads = _neck(state), _rcnn(state)
    given: Settings = {}
    if transformer is not None:
        neck, heads = _with_layer_norms(neck), _with_layer_norms(heads)
        if neck["FPN"]["NORM"]:  # those with norms there were trained as ViTDets are
            section = {**section, "size_divisor": _VITDETS_SQUARE}
            given = {"INPUT": _square(_VITDETS_SQUARE)}
    return {"MODEL": merged(merged(neck, heads), {"BACKBONE": {"NAME": section["type"], "SECTION": section}}), **given}


def _with_layer_norms(settings: Settings) -> Settings:
    """A layer norm's tensors are a group norm's: where transformers are, they are the former."""
    parts = (part for part in ("FPN", "ROI_BOX_HEAD", "ROI_MASK_HEAD") if settings.get(part, {}).get("NORM") == "GN")
    return merged(settings, {part: {"NORM": "LN"} for part in parts})


def _square(side: int) -> Settings:
    return {"MIN_SIZE_TEST": side, "MAX_SIZE_TEST": side}
