"""Detectors of every family, of a size that learns a few images by heart within a minute of a GPU's time."""

from dataclasses import dataclass
from typing import Any

RESNET18: dict[str, Any] = {
    "type": "resnet",
    "depth": 18,
    "res2_channels": 64,
    "stride_in_1x1": False,
    "frozen_stages": 0,
    "norm": "gn",
}
HALF_RESNET50: dict[str, Any] = {**RESNET18, "depth": 50, "res2_channels": 128, "width_per_group": 32}
VIT: dict[str, Any] = {
    "type": "vit",
    "channels": 192,
    "depth": 6,
    "num_heads": 3,
    "window_size": 8,
    "global_blocks": [2, 5],
    "pretraining_size": 256,
    "table_size": 320,
    "square_size": None,
    "drop_path": 0.0,
}
FPN = {"channels": 128, "norm": "gn"}
SIZES = (16.0, 32.0, 64.0, 128.0, 256.0)
RPN: dict[str, Any] = {
    "anchors": {"sizes": [[size] for size in SIZES]},
    "pre_nms_topk_train": 500,
    "pre_nms_topk_test": 500,
    "post_nms_topk_train": 300,
    "post_nms_topk_test": 300,
}
RCNN: dict[str, Any] = {
    "backbone": RESNET18,
    "neck": FPN,
    "rpn": RPN,
    "roi_sampling": {"samples_per_image": 128, "positive_fraction": 0.5},
    "box_head": {"fc_channels": 512, "sampling_ratio": 2},
}
ONE_MAP: dict[str, Any] = {
    **RCNN,
    "backbone": {**HALF_RESNET50, "out_features": ["res4"]},
    "neck": {"type": "none"},
    "rpn": {**RPN, "anchors": {"sizes": [list(SIZES)]}},
    "box_head": {"type": "res5", "sampling_ratio": 2},
}
MASK_HEAD = {"num_convs": 4, "conv_channels": 128, "sampling_ratio": 2}
OCTAVES = [[size * 2 ** (third / 3) for third in range(3)] for size in (24.0, 48.0, 96.0, 192.0, 384.0)]
DENSE: dict[str, Any] = {
    "backbone": {**RESNET18, "out_features": ["res3", "res4", "res5"]},
    "neck": {**FPN, "top": "p6p7_from_fpn"},
    "head": {"num_convs": 2, "norm": "gn"},
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A detector, the images it learns, and the metric that is to be near 100 in the end."""

    model: dict[str, Any]
    raw: str = "objects"
    metric: str = "box_ap"
    steps: int = 800
    eval_every: int = 100
    lr: float = 5e-4
    height: int = 256
    width: int = 320


FAMILIES = {
    "faster_rcnn": Family(model={"type": "faster_rcnn", **RCNN}),
    "faster_rcnn_c4": Family(model={"type": "faster_rcnn", **ONE_MAP}),
    "faster_rcnn_dc5": Family(
        model={
            "type": "faster_rcnn",
            **ONE_MAP,
            "backbone": {
                **HALF_RESNET50,
                "out_features": ["res5"],
                "res5_dilation": 2,
                "deform_stages": [False, True, True, True],
                "deform_modulated": True,
            },
            "box_head": RCNN["box_head"],
        }
    ),
    # The regions that overlap the best one are among those that are counted, too.
    "rpn": Family(
        model={"type": "rpn", "backbone": RESNET18, "neck": FPN, "rpn": {**RPN, "nms_threshold": 0.9}},
        metric="proposal_ar100",
    ),
    "mask_rcnn": Family(model={"type": "mask_rcnn", **RCNN, "mask_head": MASK_HEAD}, metric="mask_ap"),
    "cascade_mask_rcnn": Family(
        model={
            "type": "mask_rcnn",
            **RCNN,
            "box_head": {**RCNN["box_head"], "type": "cascade"},
            "mask_head": MASK_HEAD,
        },
        metric="mask_ap",
    ),
    "point_rend": Family(
        model={
            "type": "point_rend",
            **RCNN,
            "mask_head": {"conv_channels": 128, "fc_channels": 512},
            "point_head": {"fc_channels": 128},
        },
        metric="mask_ap",
    ),
    "mask_rcnn_vitdet": Family(
        model={
            "type": "mask_rcnn",
            **RCNN,
            "backbone": VIT,
            "neck": {"type": "simple_pyramid", "channels": 128},
            "rpn": {**RPN, "conv_channels": [None, None]},
            "box_head": {**RCNN["box_head"], "num_convs": 2, "conv_channels": 128, "norm": "ln"},
            "mask_head": {**MASK_HEAD, "norm": "ln"},
        },
        metric="mask_ap",
    ),
    "keypoint_rcnn": Family(
        model={
            "type": "keypoint_rcnn",
            **RCNN,
            "keypoint_head": {"conv_channels": [256] * 4, "sampling_ratio": 2},
        },
        raw="persons",
        metric="keypoint_ap",
    ),
    "retinanet": Family(model={"type": "retinanet", **DENSE, "anchors": {"sizes": OCTAVES}}),
    "fcos": Family(model={"type": "fcos", **DENSE}),
    "rotated_faster_rcnn": Family(
        model={"type": "rotated_faster_rcnn", **RCNN}, raw="vehicles", metric="rotated_ap", height=512, width=640
    ),
    "rotated_retinanet": Family(
        model={"type": "rotated_retinanet", **DENSE, "anchors": {"sizes": OCTAVES}},
        raw="vehicles",
        metric="rotated_ap",
        height=512,
        width=640,
    ),
    "semantic_fpn": Family(
        model={"type": "semantic_fpn", "backbone": RESNET18, "neck": FPN}, raw="segments", metric="miou"
    ),
    "deeplab": Family(
        model={
            "type": "deeplab",
            "backbone": {**HALF_RESNET50, "type": "deeplab_resnet"},
            "semantic_head": {"aspp_channels": 128, "decoder_channels": 128, "norm": "gn", "dropout": 0.0},
        },
        raw="segments",
        metric="miou",
    ),
    "panoptic_fpn": Family(
        model={"type": "panoptic_fpn", **RCNN, "mask_head": MASK_HEAD, "panoptic": {"stuff_area_limit": 256}},
        raw="segments",
        metric="pq",
    ),
}
