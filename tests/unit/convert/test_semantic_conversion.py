"""Names and settings of Detectron2's semantic models and PointRend; the names are those of its checkpoints."""

from typing import Any

import pytest
import torch
from small_detectors import NUM_CLASSES, RESNET, SMALL

from detcore.config.model import DeepLab, ModelConfig
from detcore.convert import from_ours, model_config, rules, to_ours
from detcore.models import build_model

SEPARABLE = DeepLab(
    name="x",
    num_classes=4,
    backbone={**RESNET, "type": "deeplab_resnet"},
    semantic_head={"aspp_channels": 8, "decoder_channels": 8, "separable": True, "norm": "gn"},
)
V3 = DeepLab(
    name="x",
    num_classes=4,
    backbone={**RESNET, "type": "deeplab_resnet", "stem": "basic", "out_features": ("res5",)},
    semantic_head={"aspp_channels": 8, "low_level_channels": (), "norm": "gn"},
)
MODELS = {
    **{name: SMALL[name] for name in ("semantic_fpn", "panoptic_fpn", "deeplab", "point_rend")},
    "separable": SEPARABLE,
    "deeplab_v3": V3,
}
SOME_OF_THEIRS = {
    "semantic_fpn": ["sem_seg_head.p2.0.weight", "sem_seg_head.p5.4.norm.bias", "sem_seg_head.predictor.bias"],
    "panoptic_fpn": ["sem_seg_head.p3.0.weight", "roi_heads.mask_head.deconv.weight"],
    "deeplab": [
        "backbone.stem.conv3.weight",
        "backbone.res5.2.conv2.weight",
        "sem_seg_head.decoder.res5.project_conv.convs.0.weight",
        "sem_seg_head.decoder.res5.project_conv.convs.3.norm.weight",
        "sem_seg_head.decoder.res5.project_conv.convs.4.1.bias",
        "sem_seg_head.decoder.res5.project_conv.project.weight",
        "sem_seg_head.decoder.res2.project_conv.weight",
        "sem_seg_head.decoder.res2.fuse_conv.1.norm.weight",
        "sem_seg_head.predictor.weight",
    ],
    "point_rend": [
        "roi_heads.mask_head.coarse_head.reduce_spatial_dim_conv.weight",
        "roi_heads.mask_head.coarse_head.fc2.bias",
        "roi_heads.mask_head.coarse_head.prediction.weight",
        "roi_heads.mask_head.point_head.fc3.weight",
        "roi_heads.mask_head.point_head.predictor.bias",
    ],
    "separable": [
        "sem_seg_head.decoder.res5.project_conv.convs.1.depthwise.weight",
        "sem_seg_head.decoder.res5.project_conv.convs.3.pointwise.norm.bias",
        "sem_seg_head.decoder.res2.fuse_conv.depthwise.norm.weight",
    ],
    "deeplab_v3": ["sem_seg_head.aspp.convs.4.1.weight", "sem_seg_head.aspp.project.norm.weight"],
}


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name: str) -> None:
    config: ModelConfig = MODELS[name]
    model = build_model(config, num_classes=config.num_classes or NUM_CLASSES)
    ours = model.state_dict()
    theirs, unknown = from_ours(ours, rules(config))
    assert not unknown and len(theirs) == len(ours)
    assert not [key for key in SOME_OF_THEIRS[name] if key not in theirs]
    again, unknown = to_ours(theirs, rules(config))
    assert not unknown and again.keys() == ours.keys()
    assert all(torch.equal(again[key], ours[key]) for key in ours)
    if name == "point_rend":
        assert theirs["roi_heads.mask_head.point_head.fc1.weight"].dim() == 3


RESNETS: dict[str, Any] = {
    "DEPTH": 101,
    "NORM": "SyncBN",
    "STRIDE_IN_1X1": False,
    "STEM_OUT_CHANNELS": 128,
    "RES2_OUT_CHANNELS": 256,
    "NUM_GROUPS": 1,
    "WIDTH_PER_GROUP": 64,
    "OUT_FEATURES": ["res2", "res5"],
    "RES4_DILATION": 1,
    "RES5_DILATION": 2,
    "RES5_MULTI_GRID": [1, 2, 4],
    "STEM_TYPE": "deeplab",
    "DEFORM_ON_PER_STAGE": [False, False, False, False],
    "DEFORM_MODULATED": False,
    "DEFORM_NUM_GROUPS": 1,
}
DEEPLAB: dict[str, Any] = {
    "META_ARCHITECTURE": "SemanticSegmentor",
    "PIXEL_MEAN": [123.675, 116.28, 103.53],
    "PIXEL_STD": [58.395, 57.12, 57.375],
    "BACKBONE": {"NAME": "build_resnet_deeplab_backbone", "FREEZE_AT": 0},
    "FPN": {"IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": "", "FUSE_TYPE": "sum"},
    "RESNETS": RESNETS,
    "SEM_SEG_HEAD": {
        "NAME": "DeepLabV3PlusHead",
        "IN_FEATURES": ["res2", "res5"],
        "IGNORE_VALUE": 255,
        "NUM_CLASSES": 19,
        "CONVS_DIM": 256,
        "COMMON_STRIDE": 4,
        "NORM": "SyncBN",
        "LOSS_WEIGHT": 1.0,
        "LOSS_TYPE": "hard_pixel_mining",
        "PROJECT_CHANNELS": [48],
        "ASPP_CHANNELS": 256,
        "ASPP_DILATIONS": [6, 12, 18],
        "ASPP_DROPOUT": 0.1,
        "USE_DEPTHWISE_SEPARABLE_CONV": False,
    },
}


def test_settings_of_deeplab() -> None:
    config = model_config(DEEPLAB, name="x")
    assert isinstance(config, DeepLab)
    assert (config.num_classes, config.backbone.depth, config.backbone.type) == (19, 101, "deeplab_resnet")
    assert config.semantic_head == type(config.semantic_head)()
    cropped = model_config({**DEEPLAB, "INPUT": {"CROP": {"ENABLED": True, "SIZE": [512, 1024]}}}, name="x")
    assert cropped.semantic_head.pool_size == (512, 1024)
    other = {**DEEPLAB["SEM_SEG_HEAD"], "NAME": "PointRendSemSegHead"}
    with pytest.raises(ValueError, match="PointRendSemSegHead"):
        model_config({**DEEPLAB, "SEM_SEG_HEAD": other}, name="x")
