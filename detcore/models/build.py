"""The only place where models meet their configuration."""

from typing import Any

import torch
from torch import nn

from detcore.config import model as config_of
from detcore.models.anchors import AnchorGenerator
from detcore.models.backbone import STRIDES, Backbone
from detcore.models.box_head import BoxHead
from detcore.models.faster_rcnn import DetectionLimits, FasterRCNN
from detcore.models.fpn import FPN
from detcore.models.mask_head import MaskHead
from detcore.models.mask_rcnn import MaskRCNN
from detcore.models.pretrained import load_backbone_file
from detcore.models.resnet import ResNet
from detcore.models.roi_sampling import RegionSampler
from detcore.models.rpn import RPN, ProposalLimits
from detcore.models.timm_backbone import TimmBackbone

RPN_STRIDES = (*STRIDES, 64)


def build_model(config: config_of.ModelConfig, *, num_classes: int, load_weights: bool = True) -> nn.Module:
    """The detector that `config` describes, in channels_last, in training mode.

    Args:
        config: one of the built-in detectors' sections.
        num_classes: of the data, without a background.
        load_weights: False leaves out the backbone's pretrained weights, because a whole model's will be loaded.

    Raises:
        ValueError: the configuration states another number of classes, weights cannot be had, or the model is a user's.
    """
    if config.num_classes is not None and config.num_classes != num_classes:
        raise ValueError(f"model.num_classes is {config.num_classes}, but the data has {num_classes} classes")
    match config:
        case config_of.FasterRCNN():
            model: nn.Module = FasterRCNN(**rcnn_parts(config, num_classes, load_weights))
        case config_of.MaskRCNN():
            mask_head = MaskHead(
                in_channels=config.fpn.channels,
                strides=STRIDES,
                num_classes=num_classes,
                **config.mask_head.model_dump(),
            )
            model = MaskRCNN(mask_head=mask_head, **rcnn_parts(config, num_classes, load_weights))
        case config_of.OwnModel():
            raise ValueError("model.type is 'own': hand the module itself over, as detcore.fit(model=...)")
    return model.to(memory_format=torch.channels_last)


def rcnn_parts(
    config: config_of.FasterRCNN | config_of.MaskRCNN, num_classes: int, load_weights: bool
) -> dict[str, Any]:
    """What Faster R-CNN and those that extend it are made of, by argument name."""
    backbone = build_backbone(config.backbone, load_weights=load_weights)
    fpn = FPN(in_channels=backbone.channels, channels=config.fpn.channels, norm=config.fpn.norm)
    return {
        "backbone": backbone,
        "fpn": fpn,
        "rpn": build_rpn(config.rpn, channels=fpn.channels),
        "box_head": BoxHead(
            in_channels=fpn.channels, strides=STRIDES, num_classes=num_classes, **config.box_head.model_dump()
        ),
        "region_sampler": RegionSampler(num_classes=num_classes, **config.roi_sampling.model_dump()),
        "limits": DetectionLimits(**config.selection.model_dump()),
    }


def build_backbone(config: config_of.Backbone, *, load_weights: bool) -> Backbone:
    """A module from images to features at strides 4, 8, 16 and 32."""
    match config:
        case config_of.ResNetBackbone():
            backbone: Backbone = ResNet(**config.model_dump(exclude={"type", "weights"}))
            if config.weights is not None and load_weights:
                load_backbone_file(backbone, config.weights)
            return backbone
        case config_of.TimmBackbone():
            return TimmBackbone(
                name=config.name,
                norm=config.norm,
                frozen_stages=config.frozen_stages,
                pretrained=load_weights and config.weights == "pretrained",
            )


def build_rpn(config: config_of.RPN, *, channels: int) -> RPN:
    """The region proposal network over P2 to P6."""
    plain = config.model_dump(include={"positive_iou", "negative_iou", "samples_per_image", "positive_fraction"})
    return RPN(
        channels=channels,
        anchors=AnchorGenerator(strides=RPN_STRIDES, **config.anchors.model_dump()),
        train_limits=ProposalLimits(per_level=config.pre_nms_topk_train, total=config.post_nms_topk_train),
        test_limits=ProposalLimits(per_level=config.pre_nms_topk_test, total=config.post_nms_topk_test),
        nms_threshold=config.nms_threshold,
        min_box_size=config.min_box_size,
        smooth_l1_beta=config.smooth_l1_beta,
        loss_weight=config.loss_weight,
        **plain,
    )
