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
    "faster_rcnn_c4": FasterRCNN(**C4),
    "mask_rcnn_c4": MaskRCNN(**C4, mask_head={"num_convs": 0, "conv_channels": 16}),
    "mask_rcnn_dc5": MaskRCNN(
        **{**C4, "backbone": {**DC5_DEFORMED, "deform_modulated": True}, "box_head": SMALL_RCNN["box_head"]},
        mask_head=MASK_HEAD,
    ),
    "rpn": ProposalNetwork(**{key: SMALL_RCNN[key] for key in ("name", "backbone", "neck", "rpn")}),
}
