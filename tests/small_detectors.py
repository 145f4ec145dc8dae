"""One small detector of every family, for tests that hold for all of them."""

from typing import Any

from detcore.config.model import DeepLab, FasterRCNN, MaskRCNN, ModelConfig, PanopticFPN, PointRend, SemanticFPN

NUM_CLASSES = 3
RESNET: dict[str, Any] = {
    "type": "resnet",
    "stem_channels": 8,
    "res2_channels": 32,
    "width_per_group": 8,
    "frozen_stages": 0,
    "norm": "gn",
}
SMALL_RCNN: dict[str, Any] = {
    "name": "small",
    "backbone": RESNET,
    "neck": {"channels": 16},
    "rpn": {
        "anchors": {"sizes": [[12.0], [20.0], [32.0], [48.0], [64.0]]},
        "samples_per_image": 32,
        "pre_nms_topk_train": 60,
        "pre_nms_topk_test": 60,
        "post_nms_topk_train": 40,
        "post_nms_topk_test": 40,
    },
    "roi_sampling": {"samples_per_image": 16, "positive_fraction": 0.5},
    "box_head": {"fc_channels": 32, "sampling_ratio": 2},
    "selection": {"max_detections": 10},
}
MASK_HEAD = {"num_convs": 1, "conv_channels": 16, "pooler_resolution": 7, "sampling_ratio": 2}

SMALL: dict[str, ModelConfig] = {
    "faster_rcnn": FasterRCNN(**SMALL_RCNN),
    "mask_rcnn": MaskRCNN(**SMALL_RCNN, mask_head=MASK_HEAD),
    "semantic_fpn": SemanticFPN(
        name="small",
        num_classes=NUM_CLASSES + 1,
        backbone=RESNET,
        neck={"channels": 16},
        semantic_head={"channels": 16},
    ),
    "panoptic_fpn": PanopticFPN(
        **SMALL_RCNN, mask_head=MASK_HEAD, semantic_classes=NUM_CLASSES + 1, semantic_head={"channels": 16}
    ),
    "deeplab": DeepLab(
        name="small",
        num_classes=NUM_CLASSES + 1,
        backbone={**RESNET, "type": "deeplab_resnet"},
        semantic_head={"aspp_channels": 16, "low_level_channels": [8], "decoder_channels": 16, "norm": "gn"},
    ),
    "point_rend": PointRend(
        **SMALL_RCNN,
        mask_head={"conv_channels": 16, "fc_channels": 32},
        point_head={"fc_channels": 16, "train_points": 40, "subdivisions": 3, "subdivision_points": 100},
    ),
}
