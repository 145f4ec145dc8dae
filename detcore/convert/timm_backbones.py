"""Detectron2's Swin Transformers and RegNets, timm's here: what their tensors tell, and how they are called."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from detcore.config import model as config_of
from detcore.convert.names import Rule

_THEIRS, _OURS = "backbone.bottom_up.", "backbone.body."
_SWIN = {(96, 6): "tiny", (96, 18): "small", (128, 18): "base", (192, 18): "large"}
"""(channels, blocks of the third stage) -> size."""
_WINDOWS = {7: "window7_224", 12: "window12_384"}
_REGNETS = {(80, 240, 560, 1360): "regnetx_040", (128, 192, 512, 1088): "regnety_040"}
"""Widths of the stages of those published: 4 GF, with and without squeeze and excitation."""


def swin_section(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The section of a Swin Transformer (arXiv:2103.14030) that has these tensors; None where it is none.

    Raises:
        ValueError: it is none of timm's.
    """
    table = state.get(f"{_THEIRS}layers.0.blocks.0.attn.relative_position_bias_table")
    if table is None:
        return None
    channels = state[f"{_THEIRS}patch_embed.proj.weight"].shape[0]
    blocks = sum(f"{_THEIRS}layers.2.blocks.{n}.norm1.weight" in state for n in range(32))
    window = (isqrt(len(table)) + 1) // 2
    if (channels, blocks) not in _SWIN or window not in _WINDOWS:
        raise ValueError(
            f"a Swin Transformer of {channels} channels, {blocks} blocks in its third stage and windows of {window} is "
            "none of timm's"
        )
    name = f"swin_{_SWIN[channels, blocks]}_patch4_{_WINDOWS[window]}"
    return {"type": "timm", "name": name, "norm": "bn", "feature_norms": True, "weights": "none"}


def regnet_section(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The section of a RegNet (arXiv:2003.13678) that has these tensors; None where it is none.

    Raises:
        ValueError: it is of other widths than the published ones.
    """
    if f"{_THEIRS}s1.b1.f.c.weight" not in state:
        return None
    widths = tuple(state[f"{_THEIRS}s{stage}.b1.f.c.weight"].shape[0] for stage in (1, 2, 3, 4))
    if widths not in _REGNETS:
        raise ValueError(f"a RegNet of widths {widths}: converted are those of {' and '.join(map(str, _REGNETS))}")
    counted = f"{_THEIRS}stem.bn.num_batches_tracked" in state
    return {"type": "timm", "name": _REGNETS[widths], "norm": "bn" if counted else "frozen_bn", "weights": "none"}


def timm_rules(config: config_of.TimmBackbone) -> list[Rule]:
    """For the tensors of a backbone.

    Raises:
        ValueError: Detectron2 has no such backbone.
    """
    if config.name.startswith("swin_"):
        return [
            # Theirs ends a stage with what ours begins the next with.
            Rule(f"{_THEIRS}layers.{{n}}.downsample.", f"{_OURS}layers_{{n}}.downsample.", 1),
            Rule(f"{_THEIRS}layers.{{n}}.", f"{_OURS}layers_{{n}}."),
            Rule(f"{_THEIRS}norm{{n}}.", "backbone.feature_norms.{n}."),
            Rule(f"{_THEIRS}patch_embed.", f"{_OURS}patch_embed."),
        ]
    if config.name in _REGNETS.values():
        return _regnet_rules(frozen=config.norm == "frozen_bn")
    raise ValueError(f"Detectron2 has no names for the tensors of timm's {config.name}")


def _regnet_rules(*, frozen: bool) -> list[Rule]:
    # A norm that is frozen stands before its ReLU, in one sequence with it.
    norm = "bn.0." if frozen else "bn."
    parts = [
        ("proj.", "downsample.conv."),
        ("bn.", "downsample.bn."),
        ("f.a.", "conv1.conv."),
        ("f.a_bn.", f"conv1.{norm}"),
        ("f.b.", "conv2.conv."),
        ("f.b_bn.", f"conv2.{norm}"),
        ("f.se.f_ex.0.", "se.fc1."),
        ("f.se.f_ex.2.", "se.fc2."),
        ("f.c.", "conv3.conv."),
        ("f.c_bn.", "conv3.bn."),
    ]
    return [
        Rule(f"{_THEIRS}stem.bn.", f"{_OURS}stem.{norm}"),
        *(
            Rule(f"{_THEIRS}s{stage}.b{{n}}.{theirs}", f"{_OURS}s{stage}.b{{n}}.{ours}")
            for stage in (1, 2, 3, 4)
            for theirs, ours in parts
        ),
    ]
