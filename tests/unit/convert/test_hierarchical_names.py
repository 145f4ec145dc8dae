"""Names of the tensors of Detectron2's Swin Transformers, MViTs and RegNets.

There is no reference output: the names are those of Detectron2's modules.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_detectors import MASK_HEAD, NUM_CLASSES, SMALL_RCNN
from torch import Tensor

import detcore
from detcore.cli import main
from detcore.config.model import MaskRCNN
from detcore.convert import from_ours, model_config, rules, to_ours
from detcore.convert.detectron2_guess import guess_settings
from detcore.convert.names import load
from detcore.models import build_model

START = "backbone.bottom_up."
TIMM = {"type": "timm", "weights": "none"}
BOTH = ("weight", "bias")
LAYERED = {**SMALL_RCNN["box_head"], "num_convs": 1, "conv_channels": 16, "num_fcs": 1}


def detector(backbone: dict[str, Any], norm: str = "none") -> MaskRCNN:
    return MaskRCNN(
        **{
            **SMALL_RCNN,
            "backbone": backbone,
            "neck": {"channels": 16, "norm": norm},
            "rpn": {},
            "box_head": {**LAYERED, "norm": norm},
        },
        mask_head={**MASK_HEAD, "norm": norm},
    )


SWIN = detector({**TIMM, "name": "swin_tiny_patch4_window7_224", "norm": "bn", "feature_norms": True}, norm="ln")
MVIT = detector({"type": "mvit", "channels": 16, "num_heads": 2, "depth": 9, "last_blocks": [1, 3, 6, 8]})
REGNETS = {
    "x": detector({**TIMM, "name": "regnetx_040", "norm": "bn"}),
    "y": detector({**TIMM, "name": "regnety_040", "norm": "frozen_bn"}),
}


def swin_names() -> set[str]:
    parts = ["norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"]
    names = {f"patch_embed.{part}.{kind}" for part in ("proj", "norm") for kind in BOTH}
    names |= {f"norm{stage}.{kind}" for stage in range(4) for kind in BOTH}
    for stage, depth in enumerate((2, 2, 6, 2)):
        for block in range(depth):
            start = f"layers.{stage}.blocks.{block}"
            names |= {f"{start}.{part}.{kind}" for part in parts for kind in BOTH}
            names.add(f"{start}.attn.relative_position_bias_table")
        if stage < 3:
            names |= {f"layers.{stage}.downsample.{part}" for part in ("norm.weight", "norm.bias", "reduction.weight")}
    return {START + name for name in names}


def regnet_names(depths: tuple[int, ...], *, squeezed: bool, counted: bool) -> set[str]:
    statistics = ["weight", "bias", "running_mean", "running_var", *(["num_batches_tracked"] if counted else [])]
    names = {"stem.conv.weight", *(f"stem.bn.{kind}" for kind in statistics)}
    for stage, depth in enumerate(depths):
        for block in range(depth):
            start = f"s{stage + 1}.b{block + 1}"
            shortcut = [("proj", "bn")] if block == 0 else []
            for conv, norm in [("f.a", "f.a_bn"), ("f.b", "f.b_bn"), ("f.c", "f.c_bn"), *shortcut]:
                names |= {f"{start}.{conv}.weight", *(f"{start}.{norm}.{kind}" for kind in statistics)}
            if squeezed:
                names |= {f"{start}.f.se.f_ex.{layer}.{kind}" for layer in (0, 2) for kind in BOTH}
    return {START + name for name in names}


def theirs_of(config: MaskRCNN) -> dict[str, Tensor]:
    """Names and tensors of a checkpoint there, which all come back to the same places here."""
    model = build_model(config, num_classes=NUM_CLASSES)
    theirs, unknown = from_ours(model.state_dict(), rules(config))
    assert not unknown
    ours, unknown = to_ours(theirs, rules(config))
    assert not unknown
    assert ours.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in ours.items())
    return theirs


def guessed(theirs: dict[str, Tensor]) -> tuple[MaskRCNN, dict[str, Any]]:
    settings = guess_settings(theirs)
    found = model_config(settings["MODEL"], name="found")
    ours, unknown = to_ours(theirs, rules(found))
    assert not unknown
    load(build_model(found, num_classes=NUM_CLASSES), ours, source="guessed")
    return found, settings["INPUT"]


def test_a_swin_transformer() -> None:
    theirs = theirs_of(SWIN)
    assert {name for name in theirs if name.startswith(START)} == swin_names()
    found, input = guessed(theirs)
    # Those with norms in their pyramid were trained on padded squares.
    assert found.backbone == SWIN.backbone.model_copy(update={"size_divisor": 1024})
    assert input == {"FORMAT": "BGR", "MIN_SIZE_TEST": 1024, "MAX_SIZE_TEST": 1024}
    assert found.neck.norm == found.box_head.norm == found.mask_head.norm == "ln"


def mvit_names() -> set[str]:
    names = {f"patch_embed.proj.{kind}" for kind in BOTH}
    names |= {f"scale{scale}_norm.{kind}" for scale in (2, 3, 4, 5) for kind in BOTH}
    parts = ["norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]
    for block in range(9):
        layers = [*parts, *(f"attn.norm_{part}" for part in "qkv"), *(["proj"] if block in (2, 4, 7) else [])]
        names |= {f"blocks.{block}.{layer}.{kind}" for layer in layers for kind in BOTH}
        names |= {f"blocks.{block}.attn.pool_{part}.weight" for part in "qkv"}
        names |= {f"blocks.{block}.attn.rel_pos_{axis}" for axis in "hw"}
    return {START + name for name in names}


def test_a_multiscale_transformer() -> None:
    theirs = theirs_of(MVIT)
    assert {name for name in theirs if name.startswith(START)} == mvit_names()
    found, input = guessed(theirs)
    assert found.backbone == MVIT.backbone and input["MIN_SIZE_TEST"] == 800


@pytest.mark.parametrize(("kind", "depths"), [("x", (2, 5, 14, 2)), ("y", (2, 6, 12, 2))])
def test_a_regnet(kind: str, depths: tuple[int, ...]) -> None:
    config = REGNETS[kind]
    theirs = theirs_of(config)
    counted = config.backbone.norm == "bn"
    names = {name for name in theirs if name.startswith(START)}
    assert names == regnet_names(depths, squeezed=kind == "y", counted=counted)
    found, input = guessed(theirs)
    assert found.backbone == config.backbone
    assert input["MIN_SIZE_TEST"] == 800 and found.neck.norm == "none"
    # Theirs reads blue first.
    ours, _ = to_ours(theirs, rules(config))
    assert torch.equal(ours["backbone.body.stem.conv.weight"], theirs[f"{START}stem.conv.weight"].flip(1))


def test_what_timm_has_not_is_refused() -> None:
    swin = {
        f"{START}layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(81, 3),
        f"{START}patch_embed.proj.weight": torch.zeros(96, 3, 4, 4),
        **{f"{START}layers.2.blocks.{n}.norm1.weight": torch.zeros(384) for n in range(6)},
    }
    with pytest.raises(ValueError, match=r"96 channels, 6 blocks .* windows of 5 is none of timm's"):
        guess_settings(swin)
    regnet = {f"{START}s{stage}.b1.f.c.weight": torch.zeros(8 * stage, 8, 1, 1) for stage in (1, 2, 3, 4)}
    with pytest.raises(ValueError, match=r"RegNet of widths \(8, 16, 24, 32\)"):
        guess_settings(regnet)


def test_other_backbones_have_no_names_there() -> None:
    with pytest.raises(ValueError, match="no names for the tensors of timm's convnext_atto"):
        rules(detector({**TIMM, "name": "convnext_atto", "norm": "bn"}))


def test_the_command_beside_a_configuration_in_python(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detcore.convert.detectron2_guess._VITDETS_SQUARE", 128)
    config = detector(MVIT.backbone.model_dump(), norm="ln")
    theirs = theirs_of(config)
    torch.save({"model": theirs}, tmp_path / "model_final.pth")
    (tmp_path / "config.yaml").write_text("model: {_target_: detectron2.modeling.GeneralizedRCNN}\ntrain: {}\n")
    command = ["convert", "detectron2", str(tmp_path / "model_final.pth"), "--out", str(tmp_path / "ours")]
    assert main([*command, "--config", str(tmp_path / "config.yaml")]) == 2
    assert "config.yaml is what a LazyConfig in Python was written to" in capsys.readouterr().err
    assert main(command) == 0
    predictor = detcore.load(tmp_path / "ours")
    assert predictor.preprocessing.size_divisor == 128
    prediction = predictor.predict(np.zeros((60, 90, 3), np.uint8))
    assert (prediction.height, prediction.width) == (60, 90)
    assert main(["convert", str(tmp_path / "ours"), "--to", "detectron2", "--out", str(tmp_path / "back.pth")]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == theirs.keys() and all(torch.equal(back[name], tensor) for name, tensor in theirs.items())
