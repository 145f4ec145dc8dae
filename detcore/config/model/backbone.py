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
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Stochastic depth of the last block, for models that have it; None is timm's default."""
    feature_norms: bool = False
    """A layer norm on each of the features: what detectors with a Swin Transformer have (arXiv:2103.14030)."""
    size_divisor: Count | None = None
    """Images are padded to multiples of so many pixels; None: of as few as strides need."""
    weights: Literal["none", "pretrained"] = "pretrained"
    """'pretrained': from an installed package where there is one, else timm's own by name. 'none': random."""


class ViTBackbone(Section):
    """The plain vision transformer of ViTDet; `simple_pyramid` is its neck."""

    type: Literal["vit"] = "vit"
    channels: Count = 768
    depth: Count = 12
    num_heads: Count = 12
    mlp_ratio: Positive = 4.0
    patch_size: Count = 16
    window_size: CountOrZero = 14
    """Patches along the side of the windows that attention stays in; 0 makes all attention global."""
    global_blocks: tuple[CountOrZero, ...] = (2, 5, 8, 11)
    """Blocks, counted from 0, whose attention is over the whole image all the same."""
    residual_blocks: tuple[CountOrZero, ...] = ()
    """Blocks that convolutions follow: the other way to carry what is seen from window to window."""
    absolute_positions: bool = True
    relative_positions: bool = True
    class_token: bool = True
    """The table of absolute positions has a first row for it, which is not used."""
    pretraining_size: Count = 224
    """Pixels of the square images that the table of absolute positions is for."""
    table_size: Count = 1024
    """Pixels of the square images that the global blocks' tables of relative positions are for."""
    square_size: Count | None = 1024
    """Positions mean what they mean on a square of so many pixels, whatever an image's shape; None stretches the
    tables to each image."""
    size_divisor: Count | None = None
    """Images are padded to multiples of so many pixels; None: of as few as strides need. Global attention sees what is
    padded: a published model wants the square that it was trained on."""
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    checkpointing: bool = False
    """Computes each block again in the backward pass: less memory, more time."""
    weights: str | None = None
    """A safetensors file with the backbone's tensors; None starts at random."""
    image_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB, on the scale 0..255."""
    image_std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.channels % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide channels {self.channels}")
        beyond = [index for index in (*self.global_blocks, *self.residual_blocks) if index >= self.depth]
        if beyond:
            raise ValueError(f"global_blocks and residual_blocks: there is no block {beyond[0]}, depth is {self.depth}")
        for name in ("pretraining_size", "table_size"):
            if getattr(self, name) < self.patch_size:
                raise ValueError(f"{name} {getattr(self, name)} is less than one patch of {self.patch_size} pixels")
        return self


class MViTBackbone(Section):
    """The multiscale vision transformer, version 2."""

    type: Literal["mvit"] = "mvit"
    channels: Count = 96
    """Of the first stage; each next one doubles them, and the heads."""
    num_heads: Count = 1
    depth: Count = 10
    last_blocks: tuple[CountOrZero, CountOrZero, CountOrZero, CountOrZero] = (0, 2, 7, 9)
    """The last block of each stage, counted from 0."""
    mlp_ratio: Positive = 4.0
    key_stride: Literal[1, 2, 4, 8] = 4
    """Keys and values are pooled so much in the first stage, half as much in each next one."""
    window_size: Count = 56
    """Places along the side of the first stage's windows; half as many in each next one."""
    table_size: Count = 224
    """Pixels of the square images that the tables of relative positions are for."""
    size_divisor: Count | None = None
    """Images are padded to multiples of so many pixels; None: of as few as strides need."""
    drop_path: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    checkpointing: bool = False
    """Computes each block again in the backward pass: less memory, more time."""
    weights: str | None = None
    """A safetensors file with the backbone's tensors; None starts at random."""
    image_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """RGB, on the scale 0..255."""
    image_std: tuple[Positive, Positive, Positive] = (58.395, 57.12, 57.375)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.channels % self.num_heads:
            raise ValueError(f"num_heads {self.num_heads} does not divide channels {self.channels}")
        if list(self.last_blocks) != sorted(set(self.last_blocks)) or self.last_blocks[-1] != self.depth - 1:
            raise ValueError(
                f"last_blocks {list(self.last_blocks)}: the last block of each stage, in order; the last of all is "
                f"depth - 1 = {self.depth - 1}"
            )
        if self.window_size % 8 or self.table_size % 32:
            raise ValueError(
                f"window_size {self.window_size} and table_size {self.table_size} are halved stage by stage: take "
                "multiples of 8 and of 32"
            )
        return self


Backbone = Annotated[ResNetBackbone | TimmBackbone | ViTBackbone | MViTBackbone, Field(discriminator="type")]


class FPN(Section):
    type: Literal["fpn"] = "fpn"
    channels: Count = 256
    norm: Literal["none", "gn", "ln", "bn", "frozen_bn"] = "none"
    fuse: Literal["sum", "avg"] = "sum"
    """How a level and the coarser one above it are joined."""
    top: Literal["none", "max_pool", "p6p7_from_backbone", "p6p7_from_fpn"] = "max_pool"
    """Levels coarser than the backbone's: none; one, every second pixel of the last; or two, by strided convolutions
    from the backbone's or the pyramid's last level (RetinaNet's and FCOS's)."""


class SimplePyramid(Section):
    """Levels made each from a plain backbone's one feature map, and a coarser one by pooling."""

    type: Literal["simple_pyramid"] = "simple_pyramid"
    channels: Count = 256
    norm: Literal["none", "gn", "ln"] = "ln"


class NoNeck(Section):
    type: Literal["none"] = "none"
    """The backbone's features as they are: C4 and DC5 detectors."""


Neck = Annotated[
    Annotated[FPN, Tag("fpn")] | Annotated[SimplePyramid, Tag("simple_pyramid")] | Annotated[NoNeck, Tag("none")],
    by_type("fpn"),
]
