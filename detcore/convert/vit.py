"""Plain vision transformers' tensors, as Detectron2's ViTDet and the checkpoints of masked autoencoders call them."""

from collections.abc import Mapping

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
