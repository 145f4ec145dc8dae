"""Sections of backbones and necks."""

from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from detcore.config.section import Count, CountOrZero, Positive, Section, by_type

Norm = Literal["frozen_bn", "bn", "gn"]


class ResNetBackbone(Section):
    """Detectron2's ResNet."""

    type: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50, 101, 152] = 50
    """18 and 34 have no bottlenecks (published: res2_channels=64); res5_dilation, groups and deform_* are of these."""
    norm: Norm = "frozen_bn"
    stride_in_1x1: bool = True
    stem_channels: Count = 64
    res2_channels: Count = 256
    groups: Count = 1
    width_per_group: Count = 64
    res5_dilation: Literal[1, 2] = 1
    """2 leaves res5 at stride 16 and dilates its convolutions: DC5."""
    deform_stages: tuple[bool, bool, bool, bool] = (False, False, False, False)
    """Of res2 to res5, those whose 3x3 convolutions are deformable."""
    deform_modulated: bool = False
    """Deformable convolutions v2."""
    deform_groups: Count = 1
    """Groups of channels with offsets of their own."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """Stages that are not trained: 0 none, 1 the stem, 2 the stem and res2, and so on."""
    out_features: tuple[Literal["res2", "res3", "res4", "res5"], ...] = ("res2", "res3", "res4", "res5")
    """Stages whose features go on, finest first; stages after the last of them are not built."""
    weights: str | None = None
    """A safetensors file with the backbone's tensors; None starts at random, which leaves nothing to freeze."""
    image_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB, on the scale 0..255."""
    image_std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def _no_random_weights_are_frozen(self) -> Self:
        if self.weights is None and (self.norm == "frozen_bn" or self.frozen_stages):
            raise ValueError(
                f"norm={self.norm} and frozen_stages={self.frozen_stages} would freeze random weights: set "
                "model.backbone.weights=FILE (safetensors), or norm=gn (or bn) and frozen_stages=0 to start at random"
            )
        return self

    @model_validator(mode="after")
    def _no_setting_is_idle(self) -> Self:
        plain = self.groups == 1 and self.res5_dilation == 1 and not any(self.deform_stages)
        if self.depth < 50 and not plain:
            raise ValueError(
                f"groups, res5_dilation and deform_stages are of bottlenecks: backbone.depth={self.depth} has none; "
                "set it to 50, 101 or 152, or leave them out"
            )
        first_absent = ("res2", "res3", "res4", "res5").index(self.out_features[-1]) + 1
        if any(self.deform_stages[first_absent:]) or (self.res5_dilation > 1 and first_absent < 4):
            raise ValueError(
                f"backbone.deform_stages or res5_dilation is of a stage that is not built: out_features ends with "
                f"{self.out_features[-1]}"
            )
        if not any(self.deform_stages) and (self.deform_modulated or self.deform_groups > 1):
            raise ValueError("backbone.deform_modulated and deform_groups need a stage in backbone.deform_stages")
        if any(self.deform_stages):
            width = self.groups * self.width_per_group << self.deform_stages.index(True)
            if width % self.deform_groups:
                raise ValueError(f"backbone.deform_groups={self.deform_groups} does not divide {width} channels")
        return self


class TimmBackbone(Section):
    """Any timm model that supports `features_only`."""

    type: Literal["timm"] = "timm"
    name: str
    norm: Norm = "frozen_bn"
    frozen_stages: CountOrZero = 0
    """Feature stages, from the input on, that are not trained; 1 is everything up to the first FPN level."""
    out_strides: tuple[Count, ...] = (4, 8, 16, 32)
    """Of the features that go on, finest first."""
    weights: Literal["none", "pretrained"] = "pretrained"
    """'pretrained': from an installed package where there is one, else timm's own by name. 'none': random."""


Backbone = Annotated[ResNetBackbone | TimmBackbone, Field(discriminator="type")]


class FPN(Section):
    type: Literal["fpn"] = "fpn"
    channels: Count = 256
    norm: Literal["none", "gn"] = "none"
    fuse: Literal["sum", "avg"] = "sum"
    """How a level and the coarser one above it are joined."""
    top: Literal["none", "max_pool", "p6p7_from_backbone", "p6p7_from_fpn"] = "max_pool"
    """Levels coarser than the backbone's: none; one, every second pixel of the last; or two, by strided convolutions
    from the backbone's or the pyramid's last level (RetinaNet's and FCOS's)."""


class NoNeck(Section):
    type: Literal["none"] = "none"
    """The backbone's features as they are: C4 and DC5 detectors."""


Neck = Annotated[Annotated[FPN, Tag("fpn")] | Annotated[NoNeck, Tag("none")], by_type("fpn")]
