"""The only place where models meet their configuration."""

import torch
from torch import nn

from detcore.config import model as config_of
from detcore.models.build.rcnn import build_mask_rcnn, proposing_parts, rcnn_parts
from detcore.models.faster_rcnn import FasterRCNN
from detcore.models.proposal_network import ProposalNetwork


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
            model = build_mask_rcnn(config, num_classes, load_weights)
        case config_of.ProposalNetwork():
            model = ProposalNetwork(num_classes=num_classes, **proposing_parts(config, load_weights))
        case config_of.OwnModel():
            raise ValueError("model.type is 'own': hand the module itself over, as detcore.fit(model=...)")
    return model.to(memory_format=torch.channels_last)
