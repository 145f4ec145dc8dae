"""Keypoint R-CNN from its section."""

from detcore.config import model as config_of
from detcore.models.build.rcnn import build_mask_head, rcnn_parts, region_strides
from detcore.models.heads.keypoint_head import KeypointHead
from detcore.models.keypoint_rcnn import KeypointRCNN


def build_keypoint_rcnn(config: config_of.KeypointRCNN, num_classes: int, load_weights: bool) -> KeypointRCNN:
    parts = rcnn_parts(config, num_classes, load_weights)
    neck, head, sampling = parts["neck"], config.keypoint_head, config.roi_sampling
    visible = sampling.samples_per_image * sampling.positive_fraction * head.num_keypoints
    keypoint_head = KeypointHead(
        in_channels=neck.channels,
        strides=region_strides(neck),
        visible_per_image=visible if head.normalizer == "static" else None,
        **head.model_dump(exclude={"normalizer"}),
    )
    mask_head = None if config.mask_head is None else build_mask_head(config.mask_head, neck, num_classes)
    return KeypointRCNN(keypoint_head=keypoint_head, mask_head=mask_head, **parts)
