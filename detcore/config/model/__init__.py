"""Model sections: one member of `ModelConfig` for each built-in detector, its parts as sections of their own."""

from typing import Annotated, Literal

from pydantic import Field

from detcore.config.model.backbone import (
    FPN,
    Backbone,
    Neck,
    NoNeck,
    Norm,
    ResNetBackbone,
    SimplePyramid,
    TimmBackbone,
    ViTBackbone,
)
from detcore.config.model.rcnn import (
    RCNN,
    RPN,
    Anchors,
    BoxHead,
    FasterRCNN,
    MaskHead,
    MaskRCNN,
    ProposalNetwork,
    Proposing,
    RegionHead,
    Res5Head,
    RoISampling,
    Selection,
)
from detcore.config.section import Count, Section


class OwnModel(Section):
    """A user's module, handed to `detcore.fit(model=…)`: nothing here to build it from."""

    type: Literal["own"] = "own"
    name: str = "own"
    num_classes: Count | None = None


ModelConfig = Annotated[FasterRCNN | MaskRCNN | ProposalNetwork | OwnModel, Field(discriminator="type")]

__all__ = [
    "FPN",
    "RCNN",
    "RPN",
    "Anchors",
    "Backbone",
    "BoxHead",
    "FasterRCNN",
    "MaskHead",
    "MaskRCNN",
    "ModelConfig",
    "Neck",
    "NoNeck",
    "Norm",
    "OwnModel",
    "ProposalNetwork",
    "Proposing",
    "RegionHead",
    "Res5Head",
    "ResNetBackbone",
    "RoISampling",
    "Selection",
    "SimplePyramid",
    "TimmBackbone",
    "ViTBackbone",
]
