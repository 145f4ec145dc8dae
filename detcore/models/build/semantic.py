"""Detectors that say the class of every pixel, or draw finer masks, from their sections."""

from torch import nn

from detcore.config import model as config_of
from detcore.models.backbones.backbone import Backbone
from detcore.models.backbones.deeplab_resnet import DeepLabResNet
from detcore.models.backbones.pretrained import load_backbone_file
from detcore.models.build.backbones import build_backbone, build_neck
from detcore.models.build.rcnn import build_mask_head, rcnn_parts, region_strides
from detcore.models.deeplab import DeepLab
from detcore.models.heads.coarse_mask_head import CoarseMaskHead
from detcore.models.heads.deeplab_head import DeepLabHead
from detcore.models.heads.point_head import PointHead
from detcore.models.heads.semantic_fpn_head import SemanticFPNHead
from detcore.models.panoptic_fpn import PanopticFPN
from detcore.models.point_rend import PointRend
from detcore.models.semantic_fpn import SemanticFPN
from detcore.ops import PanopticLimits


def build_semantic_fpn(config: config_of.SemanticFPN, num_classes: int, load_weights: bool) -> SemanticFPN:
    backbone = build_backbone(config.backbone, load_weights=load_weights)
    neck = build_neck(config.neck, backbone)
    head = SemanticFPNHead(
        in_channels=neck.channels,
        strides=region_strides(neck),
        num_classes=num_classes,
        **config.semantic_head.model_dump(),
    )
    return SemanticFPN(backbone=backbone, neck=neck, semantic_head=head)


def build_panoptic_fpn(config: config_of.PanopticFPN, num_classes: int, load_weights: bool) -> PanopticFPN:
    parts = rcnn_parts(config, num_classes, load_weights)
    neck = parts["neck"]
    head = SemanticFPNHead(
        in_channels=neck.channels,
        strides=region_strides(neck),
        num_classes=config.semantic_classes,
        **config.semantic_head.model_dump(),
    )
    return PanopticFPN(
        mask_head=build_mask_head(config.mask_head, neck, num_classes),
        semantic_head=head,
        instance_loss_weight=config.instance_loss_weight,
        panoptic_limits=PanopticLimits(**config.panoptic.model_dump()),
        **parts,
    )


def build_deeplab(config: config_of.DeepLab, num_classes: int, load_weights: bool) -> DeepLab:
    match config.backbone:
        case config_of.DeepLabResNetBackbone():
            backbone: Backbone = DeepLabResNet(**config.backbone.model_dump(exclude={"type", "weights"}))
            if config.backbone.weights is not None and load_weights:
                load_backbone_file(backbone, config.backbone.weights)
        case _:
            backbone = build_backbone(config.backbone, load_weights=load_weights)
    head = DeepLabHead(
        in_channels=backbone.channels,
        in_strides=backbone.strides,
        num_classes=num_classes,
        **config.semantic_head.model_dump(),
    )
    return DeepLab(backbone=backbone, semantic_head=head)


def build_point_rend(config: config_of.PointRend, num_classes: int, load_weights: bool) -> nn.Module:
    parts = rcnn_parts(config, num_classes, load_weights)
    neck = parts["neck"]
    levels = {"in_channels": neck.channels, "strides": region_strides(neck), "num_classes": num_classes}
    return PointRend(
        mask_head=CoarseMaskHead(**levels, **config.mask_head.model_dump()),
        point_head=PointHead(**levels, coarse_size=config.mask_head.mask_size, **config.point_head.model_dump()),
        **parts,
    )
