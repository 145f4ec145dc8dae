"""Model sections: one member of `ModelConfig` for each built-in detector, its parts as sections of their own."""

from typing import Annotated, Literal

from pydantic import Field

from detcore.config.model.backbone import FPN, Backbone, Neck, NoNeck, Norm, ResNetBackbone, TimmBackbone
from detcore.config.model.dense import FCOS, Dense, DenseHead, DenseSelection, FCOSHead, FCOSSelection, RetinaNet
from detcore.config.model.keypoint import KeypointHead, KeypointRCNN
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
from detcore.config.model.rotated import (
    RotatedAnchors,
    RotatedBoxHead,
    RotatedFasterRCNN,
    RotatedRetinaNet,
    RotatedRPN,
)
from detcore.config.section import Count, Section


class OwnModel(Section):
    """A user's module, handed to `detcore.fit(model=…)`: nothing here to build it from."""

    type: Literal["own"] = "own"
    name: str = "own"
    num_classes: Count | None = None


ModelConfig = Annotated[
    FasterRCNN | MaskRCNN | RetinaNet | FCOS | KeypointRCNN | RotatedFasterRCNN | RotatedRetinaNet | OwnModel,
    Field(discriminator="type"),
]

__all__ = [
    "FCOS",
    "FPN",
    "RCNN",
    "RPN",
    "Anchors",
    "Backbone",
    "BoxHead",
    "Dense",
    "DenseHead",
    "DenseSelection",
    "FCOSHead",
    "FCOSSelection",
    "FasterRCNN",
    "KeypointHead",
    "KeypointRCNN",
    "MaskHead",
    "MaskRCNN",
    "ModelConfig",
    "Neck",
    "NoNeck",
    "Norm",
    "OwnModel",
    "ResNetBackbone",
    "RetinaNet",
    "RoISampling",
    "RotatedAnchors",
    "RotatedBoxHead",
    "RotatedFasterRCNN",
    "RotatedRPN",
    "RotatedRetinaNet",
    "Selection",
    "TimmBackbone",
]
