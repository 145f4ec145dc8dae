"""One small detector of every family, for tests that hold for all of them."""

from typing import Any

from detcore.config.model import FasterRCNN, MaskRCNN, ModelConfig, ProposalNetwork

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

SMALL: dict[str, ModelConfig] = {
    "faster_rcnn": FasterRCNN(**SMALL_RCNN),
    "mask_rcnn": MaskRCNN(**SMALL_RCNN, mask_head=MASK_HEAD),
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
    "faster_rcnn_c4": FasterRCNN(**C4),
    "mask_rcnn_c4": MaskRCNN(**C4, mask_head={"num_convs": 0, "conv_channels": 16}),
    "mask_rcnn_dc5": MaskRCNN(
        **{**C4, "backbone": {**DC5_DEFORMED, "deform_modulated": True}, "box_head": SMALL_RCNN["box_head"]},
        mask_head=MASK_HEAD,
    ),
    "rpn": ProposalNetwork(**{key: SMALL_RCNN[key] for key in ("name", "backbone", "neck", "rpn")}),
}
