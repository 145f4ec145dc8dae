"""One-stage detectors from their sections."""

from typing import Any

from detcore.config import model as config_of
from detcore.losses.normalizer import MovingDivisor, global_mean_divisor
from detcore.models.backbones.backbone import Neck
from detcore.models.build.backbones import build_backbone, build_neck
from detcore.models.build.rcnn import build_anchors
from detcore.models.dense_detector import DenseLimits
from detcore.models.fcos import FCOS
from detcore.models.heads.dense_head import DenseHead
from detcore.models.proposals.anchors import AnchorGenerator
from detcore.models.retinanet import RetinaNet
from detcore.models.rotated_retinanet import RotatedRetinaNet


def build_retinanet(config: config_of.RetinaNet, num_classes: int, load_weights: bool) -> RetinaNet:
    parts = _backbone_and_neck(config, load_weights)
    parts["anchors"] = build_anchors(config.anchors, parts["neck"])
    plain = config.model_dump(include={"positive_iou", "negative_iou", "box_weights", "box_loss", "smooth_l1_beta"})
    make = RotatedRetinaNet if isinstance(config, config_of.RotatedRetinaNet) else RetinaNet
    return make(**parts, **_rest(config, parts, num_classes, centreness=False), **plain)


def build_fcos(config: config_of.FCOS, num_classes: int, load_weights: bool) -> FCOS:
    parts = _backbone_and_neck(config, load_weights)
    strides = parts["neck"].strides
    parts["anchors"] = AnchorGenerator(
        sizes=[(stride,) for stride in strides],
        aspect_ratios=(1.0,),
        strides=strides,
        offset=config.offset,
        fitted_steps=config.fitted_steps,
    )
    rest = _rest(config, parts, num_classes, centreness=True)
    return FCOS(**parts, **rest, centre_radius=config.centre_radius)


def _backbone_and_neck(config: config_of.Dense, load_weights: bool) -> dict[str, Any]:
    backbone = build_backbone(config.backbone, load_weights=load_weights)
    return {"backbone": backbone, "neck": build_neck(config.neck, backbone)}


def _rest(config: config_of.Dense, parts: dict[str, Any], num_classes: int, *, centreness: bool) -> dict[str, Any]:
    """What both take besides backbone, neck and anchors, by argument name."""
    neck: Neck = parts["neck"]
    moving = config.normalizer == "moving_average"
    return {
        "head": DenseHead(
            channels=neck.channels,
            num_levels=len(neck.strides),
            num_classes=num_classes,
            num_anchors=parts["anchors"].num_per_place,
            centreness=centreness,
            box_numbers=parts["anchors"].geometry.numbers,
            **config.head.model_dump(),
        ),
        "limits": DenseLimits(**config.selection.model_dump()),
        "focal_alpha": config.focal_alpha,
        "focal_gamma": config.focal_gamma,
        "divisor": MovingDivisor(initial=config.initial_positives) if moving else global_mean_divisor,
    }
