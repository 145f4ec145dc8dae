"""Settings of a Detectron2 model that have no counterpart here, each an error: nothing is passed over in silence."""

from collections.abc import Mapping, Sequence
from typing import Any

NORMS = {"FrozenBN": "frozen_bn", "BN": "bn", "SyncBN": "bn", "GN": "gn", "LN": "ln", "": "none"}
HEAD_NORMS = {**NORMS, "BN": "frozen_bn", "SyncBN": "frozen_bn"}
"""Regions are padded here to a fixed number, which a batch norm would count: its statistics stay what they are."""

_Expected = dict[str, Sequence[Any]]
"""What each key may say."""
_PROPOSING: _Expected = {
    "PROPOSAL_GENERATOR.NAME": ("RPN", "RRPN"),
    "RPN.HEAD_NAME": ("StandardRPNHead",),
    "RPN.IOU_LABELS": ([0, -1, 1],),
}
_RCNN: _Expected = {
    "ROI_HEADS.NAME": ("Res5ROIHeads", "StandardROIHeads", "CascadeROIHeads", "PointRendROIHeads", "RROIHeads"),
    "ROI_HEADS.IOU_LABELS": ([0, 1],),
}
_LAYERED: _Expected = {"ROI_BOX_HEAD.NAME": ("FastRCNNConvFCHead", "")}
_KEYPOINTS: _Expected = {"ROI_KEYPOINT_HEAD.NAME": ("KRCNNConvDeconvUpsampleHead",)}
_POINT_REND = ("PointRendMaskHead", "CoarseMaskHead")
_MASKS: _Expected = {"ROI_MASK_HEAD.NAME": ("MaskRCNNConvUpsampleHead", *_POINT_REND)}
_RETINANET: _Expected = {"RETINANET.IOU_LABELS": ([0, -1, 1],)}
_ANCHORS: _Expected = {"ANCHOR_GENERATOR.NAME": ("DefaultAnchorGenerator", "RotatedAnchorGenerator")}
_ARCHITECTURES = ("GeneralizedRCNN", "ProposalNetwork", "PanopticFPN", "RetinaNet", "SemanticSegmentor")
_BACKBONES = (
    "build_resnet_backbone",
    "build_resnet_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
    "build_resnet_deeplab_backbone",
    "vit",
    "mvit",
    "timm",
)


def norm_of(name: str, key: str, norms: Mapping[str, str] = NORMS) -> str:
    """Ours for a norm's name; ValueError, naming MODEL.`key`, where there is none."""
    if name not in norms:
        raise ValueError(f"MODEL.{key} is {name!r}: there are {', '.join(map(repr, norms))}")
    return norms[name]


def expect_counterparts(model: Mapping[str, Any]) -> None:
    """Looks at the settings that are not translated, but taken to be as they are everywhere.

    Raises:
        ValueError: naming the first that says something else.
    """
    architecture = model["META_ARCHITECTURE"]
    expected: _Expected = {"META_ARCHITECTURE": _ARCHITECTURES, "BACKBONE.NAME": _BACKBONES}
    proposing = architecture in ("GeneralizedRCNN", "ProposalNetwork", "PanopticFPN")
    if architecture == "RetinaNet":
        expected |= _RETINANET | _ANCHORS
    if proposing:
        expected |= _PROPOSING | _ANCHORS
    if proposing and architecture != "ProposalNetwork":
        expected |= _RCNN
        expected |= {} if model["ROI_HEADS"]["NAME"] == "Res5ROIHeads" else _LAYERED
        expected |= _MASKS if model["MASK_ON"] else {}
        expected |= _KEYPOINTS if model["KEYPOINT_ON"] else {}
    for key, allowed in expected.items():
        _expect(model, key, allowed)
    if architecture != "SemanticSegmentor":
        ratios = model["ANCHOR_GENERATOR"]["ASPECT_RATIOS"]
        _expect(model, "ANCHOR_GENERATOR.ASPECT_RATIOS", [[ratios[0]] * len(ratios)])
    if proposing and "SECTION" not in model["BACKBONE"]:
        _expect_all_levels(model, heads=architecture != "ProposalNetwork")


def _expect_all_levels(model: Mapping[str, Any], *, heads: bool) -> None:
    """The RPN works on all levels of the backbone, the heads on all but the one on top of a pyramid."""
    stages, pyramid = list(model["RESNETS"]["OUT_FEATURES"]), list(model["FPN"]["IN_FEATURES"])
    if not pyramid:
        _expect(model, "RPN.IN_FEATURES", [stages])
        if heads:
            _expect(model, "ROI_HEADS.IN_FEATURES", [stages])
        return
    _expect(model, "BACKBONE.NAME", ["build_resnet_fpn_backbone"])
    _expect(model, "FPN.IN_FEATURES", [stages])
    levels = [stage.replace("res", "p") for stage in stages]
    top = f"p{int(levels[-1].removeprefix('p')) + 1}"
    _expect(model, "RPN.IN_FEATURES", [[*levels, top]])
    if heads:
        _expect(model, "ROI_HEADS.IN_FEATURES", [levels])


def _expect(model: Mapping[str, Any], key: str, allowed: Sequence[Any]) -> None:
    value: Any = model
    for part in key.split("."):
        value = value[part]
    if isinstance(value, tuple):
        value = list(value)
    if value not in allowed:
        known = " or ".join(map(repr, allowed))
        raise ValueError(f"MODEL.{key} is {value!r}, which has no counterpart here: only {known} is converted")
