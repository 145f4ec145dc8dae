"""Multiscale vision transformers' tensors, as Detectron2's checkpoints call them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detcore.convert.names import Rule

_THEIRS = "backbone.bottom_up."
MVIT_RULES = [
    Rule(f"{_THEIRS}patch_embed.proj.", "backbone.patch_embed."),
    Rule(f"{_THEIRS}scale{{n}}_norm.", "backbone.norms.{n}.", -2),
    Rule(f"{_THEIRS}blocks.", "backbone.blocks."),
]


def mvit_section(state: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """The section of a backbone that has these tensors; None where it is none.

    The keys' strides and the windows are not to be seen from them: they are taken to be as published.
    """
    blocks = f"{_THEIRS}blocks"
    if f"{blocks}.0.attn.pool_q.weight" not in state:
        return None
    depth = sum(f"{blocks}.{n}.norm1.weight" in state for n in range(256))
    widths = [state[f"{blocks}.{n}.norm2.weight"].shape[0] for n in range(depth)]
    rows, width = state[f"{blocks}.0.attn.rel_pos_h"].shape
    return {
        "type": "mvit",
        "channels": widths[0],
        "num_heads": widths[0] // width,
        "depth": depth,
        "last_blocks": [n for n in range(depth) if n == depth - 1 or widths[n + 1] > widths[n]],
        "mlp_ratio": state[f"{blocks}.0.mlp.fc1.weight"].shape[0] / widths[0],
        "table_size": 4 * (rows + 1) // 2,
        "weights": None,
    }
