"""Plain vision transformers' tensors, as Detectron2's ViTDet and the checkpoints of masked autoencoders call them."""

from collections.abc import Mapping
from math import isqrt
from typing import Any

from torch import Tensor

from detcore.config import model as config_of
from detcore.convert.names import Rule, load
from detcore.models.backbones.vit import ViT

_NOT_THE_ENCODERS = ("cls_token", "mask_token", "norm.", "fc_norm.", "head.", "decoder_")
"""What a classifier's or an autoencoder's checkpoint has besides, by the beginnings of its names."""


def vit_rules(config: config_of.ViTBackbone) -> list[Rule]:
    """For the backbone and the simple pyramid of a ViTDet; a level is called by the logarithm of its stride."""
    finest = (config.patch_size // 4).bit_length() - 1
    return [
        Rule("backbone.net.patch_embed.proj.", "backbone.patch_embed."),
        *(
            Rule(f"backbone.net.blocks.{{n}}.residual.norm{conv}.", f"backbone.blocks.{{n}}.residual.conv{conv}.norm.")
            for conv in (1, 2, 3)
        ),
        Rule("backbone.net.", "backbone."),
        Rule("backbone.simfp_{n}.", "neck.levels.{n}.", -finest),
    ]


def vit_sections(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The sections of backbone and neck that have these tensors, of a ViTDet in Detectron2's names.

    Raises:
        ValueError: they do not tell the number of heads.
    """
    blocks = "backbone.net.blocks"
    depth = sum(f"{blocks}.{n}.norm1.weight" in state for n in range(256))
    relative = [state.get(f"{blocks}.{n}.attn.rel_pos_h") for n in range(depth)]
    tables = [table for table in relative if table is not None]
    if not tables or len(tables) < depth:
        raise ValueError("its ViT has no relative positions in some block, so their number of heads cannot be seen")
    lengths = [len(table) for table in tables]
    positions, patches = state["backbone.net.pos_embed"], state["backbone.net.patch_embed.proj.weight"]
    channels, patch = patches.shape[0], patches.shape[-1]
    side = isqrt(positions.shape[1])
    window, whole = (min(lengths) + 1) // 2, (max(lengths) + 1) // 2
    square = patch * whole
    backbone = {
        "type": "vit",
        "channels": channels,
        "depth": depth,
        "num_heads": channels // tables[0].shape[1],
        "mlp_ratio": state[f"{blocks}.0.mlp.fc1.weight"].shape[0] / channels,
        "patch_size": patch,
        "window_size": window if window < whole else 0,
        "global_blocks": [n for n, length in enumerate(lengths) if window < whole and length == max(lengths)],
        "residual_blocks": [n for n in range(depth) if f"{blocks}.{n}.residual.conv1.weight" in state],
        "class_token": side * side != positions.shape[1],
        "pretraining_size": patch * side,
        "table_size": square,
        "square_size": square,
        "size_divisor": square,  # what is padded is attended to
    }
    return backbone, {"type": "simple_pyramid", "channels": state["backbone.simfp_4.0.weight"].shape[0]}


def from_mae(state: Mapping[str, Tensor], backbone: ViT) -> dict[str, Tensor]:
    """All of a backbone's tensors, with the weights of a masked autoencoder (arXiv:2111.06377) or of a ViT classifier.

    What such a checkpoint has not stays as it is in `backbone`: tables of relative positions and convolutions behind
    blocks. To train from the result: `safetensors.torch.save_file` it, and give the file as `model.backbone.weights`.

    Args:
        state: names and tensors as `torch.load(FILE, weights_only=True)["model"]` gives them; names are timm's.
        backbone: of the same widths; the image size of `pretraining_size` and `class_token` must be the checkpoint's.
            The result is also loaded into it.

    Raises:
        ValueError: for tensors that are missing, of another shape, or not known.
    """
    merged = {
        name: tensor for name, tensor in backbone.state_dict().items() if ".rel_pos_" in name or ".residual." in name
    }
    for name, tensor in state.items():
        if not name.startswith(_NOT_THE_ENCODERS):
            merged[name.replace("patch_embed.proj.", "patch_embed.")] = tensor
    load(backbone, merged, source="a pretrained vision transformer")
    return {name: tensor.contiguous() for name, tensor in merged.items()}
