"""Model sections: one member of `ModelConfig` for each built-in detector, its parts as sections of their own."""

from typing import Annotated, Literal

from pydantic import Field

from detcore.config.model.backbone import FPN, Backbone, Neck, NoNeck, Norm, ResNetBackbone, TimmBackbone
from detcore.config.model.rcnn import (
    RCNN,
    RPN,
    Anchors,
    BoxHead,
    FasterRCNN,
    MaskHead,
    MaskRCNN,
    RoISampling,
    Selection,
)
from detcore.config.model.semantic import (
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
    FasterRCNN | MaskRCNN | SemanticFPN | PanopticFPN | DeepLab | PointRend | OwnModel, Field(discriminator="type")
]

__all__ = [
    "FPN",
    "RCNN",
    "RPN",
    "Anchors",
    "Backbone",
    "BoxHead",
    "CoarseMaskHead",
    "DeepLab",
    "DeepLabHead",
    "DeepLabResNetBackbone",
    "FasterRCNN",
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
    "ResNetBackbone",
    "RoISampling",
    "Selection",
    "SemanticFPN",
    "SemanticFPNHead",
    "TimmBackbone",
]
