"""Model sections: one member of `ModelConfig` for each built-in detector, its parts as sections of their own."""

from typing import Annotated, Literal

from pydantic import Field

from detcore.config.model.backbone import (
    FPN,
    Backbone,
    MViTBackbone,
    Neck,
    NoNeck,
    Norm,
    ResNetBackbone,
    SimplePyramid,
    TimmBackbone,
    ViTBackbone,
)
from detcore.config.model.dense import FCOS, Dense, DenseHead, DenseSelection, FCOSHead, FCOSSelection, RetinaNet
from detcore.config.model.detector import Detector, Published
from detcore.config.model.keypoint import KeypointHead, KeypointRCNN
from detcore.config.model.rcnn import (
    RCNN,
    RPN,
    Anchors,
    AnyBoxHead,
    BoxHead,
    CascadeHead,
    Describing,
    FasterRCNN,
    Federated,
    MaskHead,
    MaskRCNN,
    ProposalNetwork,
    Proposing,
    RegionHead,
    Res5Head,
    RoISampling,
    Selection,
)
from detcore.config.model.rotated import (
    RotatedAnchors,
    RotatedBoxHead,
    RotatedFasterRCNN,
    RotatedRetinaNet,
    RotatedRPN,
)
from detcore.config.model.semantic import (
    OF_PIXELS,
    CoarseMaskHead,
    DeepLab,
    DeepLabHead,
    DeepLabResNetBackbone,
    PanopticFPN,
    PanopticLimits,
    PointHead,
    PointRend,
    SemanticFPN,
    SemanticFPNHead,
)
from detcore.config.section import Count, Section


class OwnModel(Section):
    """A user's module, handed to `detcore.fit(model=…)`: nothing here to build it from."""

    type: Literal["own"] = "own"
    name: str = "own"
    num_classes: Count | None = None


ModelConfig = Annotated[
    FasterRCNN
    | MaskRCNN
    | ProposalNetwork
    | RetinaNet
    | FCOS
    | KeypointRCNN
    | RotatedFasterRCNN
    | RotatedRetinaNet
    | SemanticFPN
    | PanopticFPN
    | DeepLab
    | PointRend
    | Published
    | OwnModel,
    Field(discriminator="type"),
]

__all__ = [
    "FCOS",
    "FPN",
    "OF_PIXELS",
    "RCNN",
    "RPN",
    "Anchors",
    "AnyBoxHead",
    "Backbone",
    "BoxHead",
    "CascadeHead",
    "CoarseMaskHead",
    "DeepLab",
    "DeepLabHead",
    "DeepLabResNetBackbone",
    "Dense",
    "DenseHead",
    "DenseSelection",
    "Describing",
    "Detector",
    "FCOSHead",
    "FCOSSelection",
    "FasterRCNN",
    "Federated",
    "KeypointHead",
    "KeypointRCNN",
    "MViTBackbone",
    "MaskHead",
    "MaskRCNN",
    "ModelConfig",
    "Neck",
    "NoNeck",
    "Norm",
    "OwnModel",
    "PanopticFPN",
    "PanopticLimits",
    "PointHead",
    "PointRend",
    "ProposalNetwork",
    "Proposing",
    "Published",
    "RegionHead",
    "Res5Head",
    "ResNetBackbone",
    "RetinaNet",
    "RoISampling",
    "RotatedAnchors",
    "RotatedBoxHead",
    "RotatedFasterRCNN",
    "RotatedRPN",
    "RotatedRetinaNet",
    "Selection",
    "SemanticFPN",
    "SemanticFPNHead",
    "SimplePyramid",
    "TimmBackbone",
    "ViTBackbone",
]
