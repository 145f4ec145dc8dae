"""Any backbone of timm that gives features at several strides."""

import math
from typing import Any

from torch import Tensor, nn

from detcore.models.backbones.backbone import Backbone
from detcore.models.backbones.pretrained import create_timm_model
from detcore.models.backbones.same_padding import replace_same_padding
from detcore.models.backbones.shifted_windows import replace_shifted_windows
from detcore.models.norm import ChannelLayerNorm, FrozenBatchNorm, freeze, group_norm, replace_batch_norm
from detcore.models.stochastic_depth import replace_drop_path

ANY_SIZE = {"swin_": {"strict_img_size": False, "always_partition": True}}
ANY_SIZE["swinv2_"] = ANY_SIZE["swin_"]
"""What lets models whose names begin so take images of any size, and shift windows at every one of them."""


class TimmBackbone(Backbone):
    """Images (B, 3, H, W) -> features at several strides of a timm model.

    Args:
        name: timm's.
        norm: 'bn' leaves batch norms as they are; 'frozen_bn' fixes their statistics and affine; 'gn' puts a fresh
            group norm in place of each. Other norms stay.
        frozen_stages: feature stages that are not trained: 1 is all up to the features at stride 4.
        out_strides: of the features that are given, finest first.
        drop_path: stochastic depth of the last block; None is timm's default for the model.
        feature_norms: puts a layer norm on each of the features.
        size_divisor: heights and widths of images are multiples of it, and of the coarsest stride.
        pretrained: with weights; see `create_timm_model`.

    Raises:
        ValueError: the model is unknown, has no features at these strides, or its weights cannot be had.
    """

    def __init__(
        self,
        *,
        name: str,
        norm: str,
        frozen_stages: int,
        pretrained: bool,
        drop_path: float | None = None,
        out_strides: tuple[int, ...] = (4, 8, 16, 32),
        feature_norms: bool = False,
        size_divisor: int | None = None,
    ) -> None:
        super().__init__()
        self.strides, self.size_divisor = out_strides, math.lcm(max(out_strides), size_divisor or 1)
        self.name = name
        self.body = create_timm_model(name, pretrained=pretrained, **_arguments(name, drop_path))
        # Some of timm's models work on (B, h, w, C).
        self.channels_come_last = getattr(self.body, "output_fmt", None) == "NHWC"
        replace_drop_path(self.body)
        replace_same_padding(self.body)
        replace_shifted_windows(self.body)
        info: Any = self.body.feature_info
        reductions = list(info.reduction())
        absent = [stride for stride in out_strides if stride not in reductions]
        if absent:
            raise ValueError(
                f"timm's {name} has features at strides {reductions}: none at {absent}; see backbone.out_strides"
            )
        # Where several stages share a stride, the last one sees most.
        self.taken = tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in out_strides)
        self.channels = tuple(info.channels()[index] for index in self.taken)
        self.feature_norms: nn.ModuleList | None = None
        if feature_norms:
            self.feature_norms = nn.ModuleList(ChannelLayerNorm(num_channels=c, eps=1e-5) for c in self.channels)
        trained_with: Any = self.body.pretrained_cfg
        self.image_mean, self.image_std = (
            (255.0 * red, 255.0 * green, 255.0 * blue)
            for red, green, blue in (trained_with["mean"], trained_with["std"])
        )
        if not 0 <= frozen_stages <= len(self.taken):
            raise ValueError(f"backbone.frozen_stages is {frozen_stages}; {name} has {len(self.taken)} feature stages")
        if frozen_stages:
            last = info.module_name()[self.taken[frozen_stages - 1]]
            modules = {module_name for module_name, _ in self.body.named_modules()}
            # timm's wrapper may have flattened 'stages.0' to 'stages_0'.
            found = modules & {last, last.replace(".", "_")}
            if not found:
                raise ValueError(
                    f"backbone.frozen_stages: timm's {name} has no module {last!r} to freeze up to; set it to 0"
                )
            freeze_up_to(self.body, found.pop())
        match norm:
            case "frozen_bn":
                replace_batch_norm(self.body, FrozenBatchNorm.of)
            case "gn":
                replace_batch_norm(self.body, lambda batch_norm: group_norm(batch_norm.num_features))

    def forward(self, images: Tensor) -> list[Tensor]:
        features = self.body(images)
        taken = []
        for index, stride in zip(self.taken, self.strides, strict=True):
            feature = features[index]
            if self.channels_come_last:
                feature = feature.permute(0, 3, 1, 2)
            size, expected = feature.shape[-2:], (images.shape[-2] // stride, images.shape[-1] // stride)
            if size != expected:
                raise ValueError(f"timm's {self.name}: {tuple(size)} features at stride {stride}, needs {expected}")
            taken.append(feature)
        if self.feature_norms is not None:
            taken = [norm(feature) for norm, feature in zip(self.feature_norms, taken, strict=True)]
        return taken


def freeze_up_to(parent: nn.Module, last: str) -> None:
    """Freezes all below `parent` from the first module to the one called `last`: timm has them in order of use."""
    for name, child in parent.named_children():
        if last.startswith(f"{name}."):
            freeze_up_to(child, last.removeprefix(f"{name}."))
            return
        setattr(parent, name, freeze(child))
        if name == last:
            return


def _arguments(name: str, drop_path: float | None) -> dict[str, Any]:
    """What timm is told besides the name."""
    arguments: dict[str, Any] = {"features_only": True}
    for start, more in ANY_SIZE.items():
        if name.startswith(start) and not name.startswith("swinv2_cr_"):
            arguments |= more
    return arguments if drop_path is None else arguments | {"drop_path_rate": drop_path}
