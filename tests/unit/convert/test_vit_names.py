"""Names of ViTDet's tensors. There is no reference output: the names are those of Detectron2's modules."""

import pytest
import timm
import torch
from small_detectors import NUM_CLASSES, SMALL, VIT
from torch import Tensor

from detcore.config.model import ViTBackbone
from detcore.convert import from_mae, from_ours, model_config, rules, to_ours
from detcore.convert.detectron2_guess import guess_settings
from detcore.convert.names import load
from detcore.models import build_model
from detcore.models.backbones.vit import ViT


def published_names() -> set[str]:
    """Of the backbone: blocks 0 and 2 have windows, block 2 convolutions."""
    block = ["norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    names = {"backbone.net.pos_embed", "backbone.net.patch_embed.proj.weight", "backbone.net.patch_embed.proj.bias"}
    for index in range(VIT["depth"]):
        start = f"backbone.net.blocks.{index}"
        names |= {f"{start}.{part}.{kind}" for part in block for kind in ("weight", "bias")}
        names |= {f"{start}.attn.rel_pos_{axis}" for axis in "hw"}
        if index in VIT["residual_blocks"]:
            names |= {f"{start}.residual.conv{conv}.weight" for conv in (1, 2, 3)}
            names |= {f"{start}.residual.norm{conv}.{kind}" for conv in (1, 2, 3) for kind in ("weight", "bias")}
    deconvolutions = ["2.0", "2.1", "2.3", "3.0"]  # and the layer norm between the first two
    convolutions = ["2.4", "2.5", "3.1", "3.2", "4.0", "4.1", "5.1", "5.2"]
    for layer in deconvolutions:
        names |= {f"backbone.simfp_{layer}.{kind}" for kind in ("weight", "bias")}
    for layer in convolutions:
        names |= {f"backbone.simfp_{layer}.{kind}" for kind in ("weight", "norm.weight", "norm.bias")}
    return names


def test_names_of_detectron2_and_back() -> None:
    config = SMALL["mask_rcnn_vitdet"]
    model = build_model(config, num_classes=NUM_CLASSES)
    theirs, unknown = from_ours(model.state_dict(), rules(config))
    assert not unknown
    assert {name for name in theirs if name.startswith("backbone.")} == published_names()
    assert theirs["backbone.net.pos_embed"].shape == (1, 3 * 3 + 1, VIT["channels"])
    assert theirs["backbone.net.blocks.1.attn.rel_pos_h"].shape == (2 * 4 - 1, VIT["channels"] // VIT["num_heads"])
    ours, unknown = to_ours(theirs, rules(config))
    assert not unknown
    load(model, ours, source="there and back")
    again, _ = from_ours(ours, rules(config))
    assert again.keys() == theirs.keys() and all(torch.equal(again[name], theirs[name]) for name in theirs)


def test_tensors_tell_the_architecture() -> None:
    config = SMALL["mask_rcnn_vitdet"]
    model = build_model(config, num_classes=NUM_CLASSES)
    theirs, _ = from_ours(model.state_dict(), rules(config))
    settings = guess_settings(theirs)
    found = model_config(settings["MODEL"], name="found")
    same = {
        "channels",
        "depth",
        "num_heads",
        "mlp_ratio",
        "patch_size",
        "window_size",
        "global_blocks",
        "residual_blocks",
    }
    assert found.backbone.model_dump(include=same) == config.backbone.model_dump(include=same)
    assert found.box_head.norm == config.box_head.norm and found.mask_head.norm == config.mask_head.norm
    again = build_model(found, num_classes=NUM_CLASSES)
    ours, unknown = to_ours(theirs, rules(found))
    assert not unknown
    load(again, ours, source="guessed")


def backbone(**settings: object) -> ViT:
    section = ViTBackbone(channels=192, depth=12, num_heads=3, pretraining_size=64, table_size=64, **settings)
    return ViT(**section.model_dump(exclude={"type", "weights"}))


def pretrained() -> dict[str, Tensor]:
    """A masked autoencoder's encoder is timm's vision transformer, and carries the decoder beside it."""
    state = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5).state_dict()
    return {**state, "mask_token": torch.zeros(1, 1, 8), "decoder_blocks.0.norm1.weight": torch.zeros(8)}


def test_pretrained_weights_find_their_places() -> None:
    model, state = backbone(residual_blocks=[3]), pretrained()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = from_mae(state, model)
    assert merged.keys() == fresh.keys()
    for name, tensor in model.state_dict().items():
        theirs = state.get(name.replace("patch_embed.", "patch_embed.proj."), fresh[name])
        assert torch.equal(tensor, theirs) and torch.equal(merged[name], theirs), name
    assert not merged["blocks.0.attn.rel_pos_h"].any()


def test_pretrained_weights_that_do_not_fit_are_named() -> None:
    state = pretrained()
    del state["blocks.0.attn.qkv.bias"]
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.qkv\.bias is missing"):
        from_mae(state, backbone())
    with pytest.raises(ValueError, match=r"pos_embed is \(1, 17, 192\), the model's \(1, 16, 192\)"):
        from_mae(pretrained(), backbone(class_token=False))
