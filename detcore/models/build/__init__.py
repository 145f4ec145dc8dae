"""The only place where models meet their configuration."""

from collections.abc import Sequence

import torch
from torch import nn

from detcore.config import model as config_of
from detcore.models.build.dense import build_fcos, build_retinanet
from detcore.models.build.keypoint import build_keypoint_rcnn
from detcore.models.build.rcnn import build_mask_rcnn, proposing_parts, rcnn_parts
from detcore.models.build.semantic import build_deeplab, build_panoptic_fpn, build_point_rend, build_semantic_fpn
from detcore.models.build.whole_model import start_from
from detcore.models.faster_rcnn import FasterRCNN
from detcore.models.proposal_network import ProposalNetwork
from detcore.models.rotated_faster_rcnn import RotatedFasterRCNN


def build_model(
    config: config_of.ModelConfig,
    *,
    num_classes: int,
    load_weights: bool = True,
    class_counts: Sequence[float] | None = None,
) -> nn.Module:
    """The detector that `config` describes, in channels_last, in training mode.

    Args:
        config: one of the built-in detectors' sections.
        num_classes: of the data, without a background.
        load_weights: False leaves out all pretrained weights, the backbone's and `config.weights`, because a whole
            model's will be loaded.
        class_counts: how often the data has each class, for a federated loss; without, such a model only predicts.

    Raises:
        ValueError: the configuration states another number of classes, weights cannot be had, or the model is a user's.
    """
    start = config.weights if load_weights and isinstance(config, config_of.Detector) else None
    load_weights = load_weights and start is None  # a whole model has its backbone's
    if config.num_classes is not None and config.num_classes != num_classes:
        raise ValueError(f"model.num_classes is {config.num_classes}, but the data has {num_classes} classes")
    match config:
        case config_of.FasterRCNN():
            model: nn.Module = FasterRCNN(**rcnn_parts(config, num_classes, load_weights, class_counts))
        case config_of.MaskRCNN():
            model = build_mask_rcnn(config, num_classes, load_weights, class_counts)
        case config_of.ProposalNetwork():
            model = ProposalNetwork(num_classes=num_classes, **proposing_parts(config, load_weights))
        case config_of.RotatedFasterRCNN():
            model = RotatedFasterRCNN(**rcnn_parts(config, num_classes, load_weights, class_counts))
        case config_of.RetinaNet() | config_of.RotatedRetinaNet():
            model = build_retinanet(config, num_classes, load_weights)
        case config_of.FCOS():
            model = build_fcos(config, num_classes, load_weights)
        case config_of.KeypointRCNN():
            model = build_keypoint_rcnn(config, num_classes, load_weights)
        case config_of.SemanticFPN():
            model = build_semantic_fpn(config, num_classes, load_weights)
        case config_of.PanopticFPN():
            model = build_panoptic_fpn(config, num_classes, load_weights)
        case config_of.DeepLab():
            model = build_deeplab(config, num_classes, load_weights)
        case config_of.PointRend():
            model = build_point_rend(config, num_classes, load_weights)
        case config_of.OwnModel():
            raise ValueError("model.type is 'own': hand the module itself over, as detcore.fit(model=...)")
        case config_of.Published():
            raise ValueError("model.type is 'published': it is for detcore.launch.train, which looks the model up")
    if start is not None and isinstance(config, config_of.Detector):
        start_from(model, start, sha256=config.weights_sha256)
    return model.to(memory_format=torch.channels_last)
