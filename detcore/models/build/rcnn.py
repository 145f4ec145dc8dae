"""Two-stage detectors' parts from their sections."""

from collections.abc import Sequence
from typing import Any

from detcore.config import model as config_of
from detcore.models.backbones.backbone import Neck
from detcore.models.backbones.pretrained import load_backbone_file
from detcore.models.backbones.resnet import NUM_BLOCKS, STAGES
from detcore.models.box_geometry import ROTATED, UPRIGHT, BoxGeometry
from detcore.models.build.backbones import build_backbone, build_neck
from detcore.models.heads.box_head import BoxHead, RegionHead
from detcore.models.heads.cascade_head import CascadeHead
from detcore.models.heads.federated import FederatedClasses
from detcore.models.heads.mask_head import MaskHead, MaskLayers
from detcore.models.heads.res5_head import Res5Head
from detcore.models.mask_rcnn import MaskRCNN
from detcore.models.mask_rcnn_c4 import MaskRCNNC4
from detcore.models.proposals.anchors import AnchorGenerator, RotatedAnchorGenerator
from detcore.models.proposals.roi_sampling import RegionSampler
from detcore.models.proposals.rpn import RPN, ProposalLimits
from detcore.models.selection import DetectionLimits


def rcnn_parts(
    config: config_of.RCNN, num_classes: int, load_weights: bool, class_counts: Sequence[float] | None = None
) -> dict[str, Any]:
    """What Faster R-CNN and those that extend it are made of, by argument name."""
    parts = proposing_parts(config, load_weights)
    return {
        **parts,
        "box_head": build_box_head(config, parts["neck"], num_classes, load_weights, class_counts),
        "region_sampler": RegionSampler(
            num_classes=num_classes, geometry=geometry_of(config), **config.roi_sampling.model_dump()
        ),
        "limits": DetectionLimits(**config.selection.model_dump()),
        "train_on_predicted_boxes": isinstance(config, config_of.Describing) and config.train_on_predicted_boxes,
    }


def geometry_of(config: config_of.RCNN) -> BoxGeometry:
    return ROTATED if isinstance(config, config_of.RotatedFasterRCNN) else UPRIGHT


def proposing_parts(config: config_of.Proposing, load_weights: bool) -> dict[str, Any]:
    """What the region proposal network and those that extend it are made of, by argument name."""
    backbone = build_backbone(config.backbone, load_weights=load_weights)
    neck = build_neck(config.neck, backbone)
    return {"backbone": backbone, "neck": neck, "rpn": build_rpn(config.rpn, neck)}


def build_anchors(config: config_of.Anchors, neck: Neck) -> AnchorGenerator:
    """The anchors of all of the neck's levels.

    Raises:
        ValueError: they have sizes for another number of levels.
    """
    if len(config.sizes) != len(neck.strides):
        raise ValueError(f"anchors.sizes has {len(config.sizes)} levels, the neck {len(neck.strides)}: {neck.strides}")
    make = RotatedAnchorGenerator if isinstance(config, config_of.RotatedAnchors) else AnchorGenerator
    return make(strides=neck.strides, **config.model_dump())


def build_rpn(config: config_of.RPN, neck: Neck) -> RPN:
    """The region proposal network over all of the neck's levels."""
    plain = config.model_dump(
        include={
            "conv_channels",
            "positive_iou",
            "negative_iou",
            "boundary_threshold",
            "samples_per_image",
            "positive_fraction",
        }
    )
    return RPN(
        channels=neck.channels,
        anchors=build_anchors(config.anchors, neck),
        train_limits=ProposalLimits(per_level=config.pre_nms_topk_train, total=config.post_nms_topk_train),
        test_limits=ProposalLimits(per_level=config.pre_nms_topk_test, total=config.post_nms_topk_test),
        nms_threshold=config.nms_threshold,
        min_box_size=config.min_box_size,
        smooth_l1_beta=config.smooth_l1_beta,
        loss_weight=config.loss_weight,
        box_loss=config.box_loss,
        box_loss_weight=config.box_loss_weight,
        box_weights=config.box_weights,
        **plain,
    )


def build_box_head(
    config: config_of.RCNN,
    neck: Neck,
    num_classes: int,
    load_weights: bool,
    class_counts: Sequence[float] | None,
) -> RegionHead | CascadeHead:
    """The second stage's classes and boxes; `class_counts` are the data's, for a federated loss."""
    section = config.box_head
    region = {
        "num_classes": num_classes,
        "geometry": geometry_of(config),
        "sigmoid": section.class_loss == "sigmoid",
        "federated": build_federated(section.federated, num_classes, class_counts),
        **section.model_dump(exclude={"type", "ious", "class_loss", "federated"}),
    }
    layered = {"in_channels": neck.channels, "strides": region_strides(neck), **region}
    match section:
        case config_of.BoxHead():
            return BoxHead(**layered)
        case config_of.CascadeHead():
            stages = [
                BoxHead(**{**layered, "class_agnostic": True, "box_weights": weights})
                for weights in section.box_weights
            ]
            return CascadeHead(stages=stages, ious=section.ious)
        case config_of.Res5Head():
            assert isinstance(config.backbone, config_of.ResNetBackbone)
            return build_res5_head(config.backbone, neck, load_weights, region)


def build_res5_head(
    backbone: config_of.ResNetBackbone, neck: Neck, load_weights: bool, region: dict[str, Any]
) -> Res5Head:
    """With the backbone's last stage, from the backbone's file of weights where there is one."""
    last = STAGES.index("res5")
    head = Res5Head(
        in_channels=neck.channels,
        stride=neck.strides[0],
        num_blocks=NUM_BLOCKS[backbone.depth][last],
        out_channels=backbone.res2_channels << last,
        inner_channels=backbone.groups * backbone.width_per_group << last,
        groups=backbone.groups,
        stride_in_1x1=backbone.stride_in_1x1,
        norm=backbone.norm,
        **region,
    )
    if backbone.weights is not None and load_weights:
        load_backbone_file(head.res5, backbone.weights, prefix="res5.")
    return head


def build_mask_rcnn(
    config: config_of.MaskRCNN, num_classes: int, load_weights: bool, class_counts: Sequence[float] | None
) -> MaskRCNN:
    """Over a pyramid or one map of features; or, with res5 as its box head, on what that makes of each region."""
    parts = rcnn_parts(config, num_classes, load_weights, class_counts)
    box_head = parts["box_head"]
    if not isinstance(box_head, Res5Head):
        return MaskRCNN(mask_head=build_mask_head(config.mask_head, parts["neck"], num_classes), **parts)
    layers = config.mask_head.model_dump(exclude={"pooler_resolution", "sampling_ratio", "aligned"})
    parts["mask_head"] = MaskLayers(in_channels=box_head.out_channels, num_classes=num_classes, **layers)
    return MaskRCNNC4(**parts)


def build_federated(
    config: config_of.Federated | None, num_classes: int, class_counts: Sequence[float] | None
) -> FederatedClasses | None:
    """The draw of a federated loss, by the section's counts or else the data's.

    Raises:
        ValueError: counts of another number of classes.
    """
    if config is None:
        return None
    counts = config.class_counts or class_counts
    if counts is not None and len(counts) != num_classes:
        raise ValueError(
            f"model.box_head.federated.class_counts has {len(counts)} counts, but there are {num_classes} classes: "
            "give one for each, or null to count the data's"
        )
    return FederatedClasses(
        num_classes_per_image=config.num_classes_per_image,
        class_counts=counts,
        frequency_power=config.frequency_power,
    )


def build_mask_head(config: config_of.MaskHead, neck: Neck, num_classes: int) -> MaskHead:
    return MaskHead(
        in_channels=neck.channels, strides=region_strides(neck), num_classes=num_classes, **config.model_dump()
    )


def region_strides(neck: Neck) -> tuple[int, ...]:
    """Of the levels that regions are pooled from."""
    return neck.strides[: neck.num_region_levels]
