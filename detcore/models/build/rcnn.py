"""Two-stage detectors' parts from their sections."""

from typing import Any

from detcore.config import model as config_of
from detcore.models.backbones.backbone import Neck
from detcore.models.backbones.pretrained import load_backbone_file
from detcore.models.backbones.resnet import NUM_BLOCKS, STAGES
from detcore.models.build.backbones import build_backbone, build_neck
from detcore.models.faster_rcnn import DetectionLimits
from detcore.models.heads.box_head import BoxHead, RegionHead
from detcore.models.heads.mask_head import MaskHead, MaskLayers
from detcore.models.heads.res5_head import Res5Head
from detcore.models.mask_rcnn import MaskRCNN
from detcore.models.mask_rcnn_c4 import MaskRCNNC4
from detcore.models.proposals.anchors import AnchorGenerator
from detcore.models.proposals.roi_sampling import RegionSampler
from detcore.models.proposals.rpn import RPN, ProposalLimits


def rcnn_parts(config: config_of.RCNN, num_classes: int, load_weights: bool) -> dict[str, Any]:
    """What Faster R-CNN and those that extend it are made of, by argument name."""
    parts = proposing_parts(config, load_weights)
    return {
        **parts,
        "box_head": build_region_head(config, parts["neck"], num_classes, load_weights),
        "region_sampler": RegionSampler(num_classes=num_classes, **config.roi_sampling.model_dump()),
        "limits": DetectionLimits(**config.selection.model_dump()),
    }


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
    return AnchorGenerator(strides=neck.strides, **config.model_dump())


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
        **plain,
    )


def build_region_head(config: config_of.RCNN, neck: Neck, num_classes: int, load_weights: bool) -> RegionHead:
    """The second stage's classes and boxes."""
    match config.box_head:
        case config_of.BoxHead():
            return build_box_head(config.box_head, neck, num_classes)
        case config_of.Res5Head():
            assert isinstance(config.backbone, config_of.ResNetBackbone)
            return build_res5_head(config.box_head, config.backbone, neck, num_classes, load_weights)


def build_box_head(config: config_of.BoxHead, neck: Neck, num_classes: int) -> BoxHead:
    return BoxHead(
        in_channels=neck.channels,
        strides=region_strides(neck),
        num_classes=num_classes,
        **config.model_dump(exclude={"type"}),
    )


def build_res5_head(
    config: config_of.Res5Head,
    backbone: config_of.ResNetBackbone,
    neck: Neck,
    num_classes: int,
    load_weights: bool,
) -> Res5Head:
    """With the backbone's last stage, from the backbone's file of weights where there is one."""
    last = STAGES.index("res5")
    head = Res5Head(
        in_channels=neck.channels,
        stride=neck.strides[0],
        num_classes=num_classes,
        num_blocks=NUM_BLOCKS[backbone.depth][last],
        out_channels=backbone.res2_channels << last,
        inner_channels=backbone.groups * backbone.width_per_group << last,
        groups=backbone.groups,
        stride_in_1x1=backbone.stride_in_1x1,
        norm=backbone.norm,
        **config.model_dump(exclude={"type"}),
    )
    if backbone.weights is not None and load_weights:
        load_backbone_file(head.res5, backbone.weights, prefix="res5.")
    return head


def build_mask_rcnn(config: config_of.MaskRCNN, num_classes: int, load_weights: bool) -> MaskRCNN:
    """Over a pyramid or one map of features; or, with res5 as its box head, on what that makes of each region."""
    parts = rcnn_parts(config, num_classes, load_weights)
    box_head = parts["box_head"]
    if not isinstance(box_head, Res5Head):
        return MaskRCNN(mask_head=build_mask_head(config.mask_head, parts["neck"], num_classes), **parts)
    layers = config.mask_head.model_dump(exclude={"pooler_resolution", "sampling_ratio"})
    parts["mask_head"] = MaskLayers(in_channels=box_head.out_channels, num_classes=num_classes, **layers)
    return MaskRCNNC4(**parts)


def build_mask_head(config: config_of.MaskHead, neck: Neck, num_classes: int) -> MaskHead:
    return MaskHead(
        in_channels=neck.channels, strides=region_strides(neck), num_classes=num_classes, **config.model_dump()
    )


def region_strides(neck: Neck) -> tuple[int, ...]:
    """Of the levels that regions are pooled from."""
    return neck.strides[: neck.num_region_levels]
