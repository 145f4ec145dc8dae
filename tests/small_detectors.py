"""One small detector of every family, for tests that hold for all of them."""

from typing import Any

from detcore.config.model import (
    FCOS,
    DeepLab,
    FasterRCNN,
    KeypointRCNN,
    MaskRCNN,
    ModelConfig,
    PanopticFPN,
    PointRend,
    ProposalNetwork,
    RetinaNet,
    RotatedFasterRCNN,
    RotatedRetinaNet,
    SemanticFPN,
)

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
RES4 = {**RESNET, "out_features": ["res4"]}
C4: dict[str, Any] = {
    **SMALL_RCNN,
    "backbone": RES4,
    "neck": {"type": "none"},
    "rpn": {**SMALL_RCNN["rpn"], "anchors": {"sizes": [[12.0, 20.0, 32.0, 48.0, 64.0]]}},
    "box_head": {"type": "res5", "pooler_resolution": 6, "sampling_ratio": 2},
}
DC5_DEFORMED = {**RESNET, "out_features": ["res5"], "res5_dilation": 2, "deform_stages": [False, False, True, True]}
KEYPOINT_HEAD = {"num_keypoints": 5, "conv_channels": [16], "pooler_resolution": 7, "sampling_ratio": 2}
SMALL_DENSE: dict[str, Any] = {
    "name": "small",
    "backbone": {**RESNET, "out_features": ["res3", "res4", "res5"]},
    "head": {"num_convs": 1},
    # Untrained scores are low.
    "selection": {"max_detections": 10, "score_threshold": 0.0, "candidates_per_level": 60},
}

VIT: dict[str, Any] = {
    "type": "vit",
    "channels": 24,
    "depth": 4,
    "num_heads": 2,
    "window_size": 3,
    "global_blocks": [1, 3],
    "residual_blocks": [2],
    "pretraining_size": 48,
    "table_size": 64,
    "square_size": 128,
}
MVIT: dict[str, Any] = {
    "type": "mvit",
    "channels": 8,
    "depth": 5,
    "last_blocks": [0, 1, 3, 4],
    "window_size": 8,
    "table_size": 64,
}

SMALL: dict[str, ModelConfig] = {
    "faster_rcnn": FasterRCNN(**SMALL_RCNN),
    "mask_rcnn": MaskRCNN(**SMALL_RCNN, mask_head=MASK_HEAD),
    "mask_rcnn_vitdet": MaskRCNN(
        **{
            **SMALL_RCNN,
            "backbone": VIT,
            "neck": {"type": "simple_pyramid", "channels": 16},
            "rpn": {**SMALL_RCNN["rpn"], "conv_channels": [None, None]},
            "box_head": {"fc_channels": 32, "sampling_ratio": 2, "num_convs": 1, "conv_channels": 16, "norm": "ln"},
        },
        mask_head={**MASK_HEAD, "norm": "ln"},
    ),
    "faster_rcnn_mvit": FasterRCNN(**{**SMALL_RCNN, "backbone": MVIT}),
    "faster_rcnn_c4": FasterRCNN(**C4),
    "mask_rcnn_c4": MaskRCNN(**C4, mask_head={"num_convs": 0, "conv_channels": 16}),
    "mask_rcnn_dc5": MaskRCNN(
        **{**C4, "backbone": {**DC5_DEFORMED, "deform_modulated": True}, "box_head": SMALL_RCNN["box_head"]},
        mask_head=MASK_HEAD,
    ),
    "rpn": ProposalNetwork(**{key: SMALL_RCNN[key] for key in ("name", "backbone", "neck", "rpn")}),
    "cascade_mask_rcnn": MaskRCNN(
        **{**SMALL_RCNN, "box_head": {**SMALL_RCNN["box_head"], "type": "cascade", "box_loss": "giou"}},
        mask_head=MASK_HEAD,
    ),
    "federated_rcnn": FasterRCNN(
        **{
            **SMALL_RCNN,
            "box_head": {
                **SMALL_RCNN["box_head"],
                "class_loss": "sigmoid",
                "federated": {"num_classes_per_image": 3, "class_counts": (9, 5, 1)},
            },
            "selection": {"max_detections": 10, "score_threshold": 0.001, "soft_nms": "gaussian"},
        }
    ),
    "rotated_faster_rcnn": RotatedFasterRCNN(**SMALL_RCNN),
    "retinanet": RetinaNet(**SMALL_DENSE, neck={"channels": 16, "top": "p6p7_from_backbone"}),
    "rotated_retinanet": RotatedRetinaNet(**SMALL_DENSE, neck={"channels": 16, "top": "p6p7_from_backbone"}),
    # More channels than groups: of one value there is no norm.
    "fcos": FCOS(**SMALL_DENSE, neck={"channels": 64, "top": "p6p7_from_fpn"}),
    "keypoint_rcnn": KeypointRCNN(**SMALL_RCNN, keypoint_head=KEYPOINT_HEAD),
    "keypoint_mask_rcnn": KeypointRCNN(**SMALL_RCNN, keypoint_head=KEYPOINT_HEAD, mask_head=MASK_HEAD),
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
