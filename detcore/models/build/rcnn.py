"""Two-stage detectors' parts from their sections."""

from collections.abc import Sequence
from typing import Any

from detcore.config import model as config_of
from detcore.models.backbones.backbone import Neck
from detcore.models.build.backbones import build_backbone, build_neck
from detcore.models.heads.box_head import BoxHead
from detcore.models.heads.cascade_head import CascadeHead
from detcore.models.heads.federated import FederatedClasses
from detcore.models.heads.mask_head import MaskHead
from detcore.models.proposals.anchors import AnchorGenerator
from detcore.models.proposals.roi_sampling import RegionSampler
from detcore.models.proposals.rpn import RPN, ProposalLimits
from detcore.models.selection import DetectionLimits


def rcnn_parts(
    config: config_of.RCNN, num_classes: int, load_weights: bool, class_counts: Sequence[float] | None = None
) -> dict[str, Any]:
    """What Faster R-CNN and those that extend it are made of, by argument name."""
    backbone = build_backbone(config.backbone, load_weights=load_weights)
    neck = build_neck(config.neck, backbone)
    return {
        "backbone": backbone,
        "neck": neck,
        "rpn": build_rpn(config.rpn, neck),
        "box_head": build_box_head(config.box_head, neck, num_classes, class_counts),
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
        box_loss=config.box_loss,
        box_loss_weight=config.box_loss_weight,
        **plain,
    )


def build_box_head(
    config: config_of.AnyBoxHead, neck: Neck, num_classes: int, class_counts: Sequence[float] | None
) -> BoxHead | CascadeHead:
    """The second stage's classes and boxes; `class_counts` are the data's, for a federated loss."""

    def head(class_agnostic: bool, box_weights: tuple[float, float, float, float]) -> BoxHead:
        return BoxHead(
            in_channels=neck.channels,
            strides=region_strides(neck),
            num_classes=num_classes,
            class_agnostic=class_agnostic,
            box_weights=box_weights,
            sigmoid=config.class_loss == "sigmoid",
            federated=build_federated(config.federated, num_classes, class_counts),
            **config.model_dump(exclude={"type", "class_agnostic", "box_weights", "ious", "class_loss", "federated"}),
        )

    match config:
        case config_of.BoxHead():
            return head(config.class_agnostic, config.box_weights)
        case config_of.CascadeHead():
            return CascadeHead(stages=[head(True, weights) for weights in config.box_weights], ious=config.ious)


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
