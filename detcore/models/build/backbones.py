"""Backbones and necks from their sections."""

from detcore.config import model as config_of
from detcore.models.backbones.backbone import Backbone, Neck, NoNeck
from detcore.models.backbones.fpn import FPN
from detcore.models.backbones.mvit import MViT
from detcore.models.backbones.pretrained import load_backbone_file
from detcore.models.backbones.resnet import ResNet
from detcore.models.backbones.simple_pyramid import SimplePyramid
from detcore.models.backbones.timm_backbone import TimmBackbone
from detcore.models.backbones.vit import ViT


def build_backbone(config: config_of.Backbone, *, load_weights: bool) -> Backbone:
    """A module from images to features."""
    match config:
        case config_of.ResNetBackbone():
            backbone: Backbone = ResNet(**config.model_dump(exclude={"type", "weights"}))
            if config.weights is not None and load_weights:
                load_backbone_file(backbone, config.weights)
            return backbone
        case config_of.ViTBackbone():
            backbone = ViT(**config.model_dump(exclude={"type", "weights"}))
            if config.weights is not None and load_weights:
                load_backbone_file(backbone, config.weights)
            return backbone
        case config_of.MViTBackbone():
            backbone = MViT(**config.model_dump(exclude={"type", "weights"}))
            if config.weights is not None and load_weights:
                load_backbone_file(backbone, config.weights)
            return backbone
        case config_of.TimmBackbone():
            return TimmBackbone(
                **config.model_dump(exclude={"type", "weights"}),
                pretrained=load_weights and config.weights == "pretrained",
            )


def build_neck(config: config_of.Neck, backbone: Backbone) -> Neck:
    """What stands between `backbone` and the heads."""
    match config:
        case config_of.FPN():
            return FPN(
                in_channels=backbone.channels, in_strides=backbone.strides, **config.model_dump(exclude={"type"})
            )
        case config_of.SimplePyramid():
            return SimplePyramid(
                in_channels=backbone.channels, in_strides=backbone.strides, **config.model_dump(exclude={"type"})
            )
        case config_of.NoNeck():
            return NoNeck(channels=backbone.channels, strides=backbone.strides)
