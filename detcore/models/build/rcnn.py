"""Two-stage detectors' parts from their sections."""

from typing import Any

from detcore.config import model as config_of
from detcore.models.backbones.backbone import Neck
from detcore.models.build.backbones import build_backbone, build_neck
from detcore.models.faster_rcnn import DetectionLimits
from detcore.models.heads.box_head import BoxHead
from detcore.models.heads.mask_head import MaskHead
from detcore.models.proposals.anchors import AnchorGenerator
from detcore.models.proposals.roi_sampling import RegionSampler
from detcore.models.proposals.rpn import RPN, ProposalLimits


def rcnn_parts(config: config_of.RCNN, num_classes: int, load_weights: bool) -> dict[str, Any]:
    """What Faster R-CNN and those that extend it are made of, by argument name."""
    backbone = build_backbone(config.backbone, load_weights=load_weights)
    neck = build_neck(config.neck, backbone)
    return {
        "backbone": backbone,
        "neck": neck,
        "rpn": build_rpn(config.rpn, neck),
        "box_head": build_box_head(config.box_head, neck, num_classes),
        "region_sampler": RegionSampler(num_classes=num_classes, **config.roi_sampling.model_dump()),
        "limits": DetectionLimits(**config.selection.model_dump()),
    }


def build_anchors(config: config_of.Anchors, neck: Neck) -> AnchorGenerator:
    """The anchors of all of the neck's levels.

    Raises:
        ValueError: they have sizes for another number of levels.
    """
    if len(config.sizes) != len(neck.strides):
        raise ValueError(f"anchors.sizes has {len(config.sizes)} levels, the neck {len(neck.strides)}: {neck.strides}")
    return AnchorGenerator(strides=neck.strides, **config.model_dump())


def build_rpn(config: config_of.RPN, neck: Neck) -> RPN:
    """The region proposal network over all of the neck's levels."""
    plain = config.model_dump(include={"positive_iou", "negative_iou", "samples_per_image", "positive_fraction"})
    return RPN(
        channels=neck.channels,
        anchors=build_anchors(config.anchors, neck),
        train_limits=ProposalLimits(per_level=config.pre_nms_topk_train, total=config.post_nms_topk_train),
        test_limits=ProposalLimits(per_level=config.pre_nms_topk_test, total=config.post_nms_topk_test),
        nms_threshold=config.nms_threshold,
        min_box_size=config.min_box_size,
        smooth_l1_beta=config.smooth_l1_beta,
        loss_weight=config.loss_weight,
        **plain,
    )


def build_box_head(config: config_of.BoxHead, neck: Neck, num_classes: int) -> BoxHead:
    """The second stage's classes and boxes."""
    return BoxHead(
        in_channels=neck.channels, strides=region_strides(neck), num_classes=num_classes, **config.model_dump()
    )


def build_mask_head(config: config_of.MaskHead, neck: Neck, num_classes: int) -> MaskHead:
    return MaskHead(
        in_channels=neck.channels, strides=region_strides(neck), num_classes=num_classes, **config.model_dump()
    )


def region_strides(neck: Neck) -> tuple[int, ...]:
    """Of the levels that regions are pooled from."""
    return neck.strides[: neck.num_region_levels]
