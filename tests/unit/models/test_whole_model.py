"""Training on from a whole model's weights: what is taken, what keeps its start, what is refused."""

import hashlib
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small_detectors import RESNET, SMALL
from torch import Tensor, nn

from detcore.config.model import Published
from detcore.models import build_model

LOGGER = "detcore.models.build.whole_model"


def build(name: str = "mask_rcnn", *, num_classes: int = 3, load_weights: bool = True, **changes: object) -> nn.Module:
    torch.manual_seed(1)
    section = type(SMALL[name]).model_validate({**SMALL[name].model_dump(), **changes})
    return build_model(section, num_classes=num_classes, load_weights=load_weights)


def trained(name: str = "mask_rcnn") -> dict[str, Tensor]:
    """A model's state, no tensor as it would start."""
    return {key: (value + 1).contiguous() for key, value in build(name).state_dict().items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file(trained(), path)
    return path


def test_the_same_classes_take_every_tensor(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    state, expected = build(weights=str(file)).state_dict(), trained()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert f"{len(expected)} of the model's {len(expected)} tensors loaded" in caplog.text
    assert "start" not in caplog.text


def test_other_weights_than_stated_are_refused(file: Path) -> None:
    own = hashlib.sha256(file.read_bytes()).hexdigest()
    build(weights=str(file), weights_sha256=own)
    with pytest.raises(ValueError, match=rf"{file} has the SHA-256 {own[:12]}…, .*weights_sha256 is 000000000000…"):
        build(weights=str(file), weights_sha256="0" * 64)


@pytest.mark.parametrize("name", ["mask_rcnn", "retinanet", "cascade_mask_rcnn", "faster_rcnn_c4"])
def test_other_classes_keep_their_start(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, expected = tmp_path / "weights.safetensors", trained(name)
    save_file(expected, file)
    fresh = build(name, num_classes=7).state_dict()
    state = build(name, num_classes=7, weights=str(file)).state_dict()
    differ = [key for key in fresh if fresh[key].shape != expected[key].shape]
    assert differ and all("head" in key for key in differ)
    for key, value in state.items():
        assert torch.equal(value, fresh[key] if key in differ else expected[key]), key
    (line,) = [record for record in caplog.records if record.name == LOGGER]
    assert line.levelno == logging.WARNING
    assert f"{len(differ)} keep their start: {differ[0]}" in line.message
    assert len(line.message.splitlines()) == 1


def test_the_backbone_s_own_file_is_not_read(file: Path) -> None:
    backbone = {**RESNET, "weights": "converted", "frozen_stages": 2}
    model = build(weights=str(file), backbone=backbone)
    assert not model.backbone.stem.conv1.weight.requires_grad
    assert all(torch.equal(model.state_dict()[name], value) for name, value in trained().items())


def test_no_file_is_read_where_a_published_model_is_loaded() -> None:
    build(weights="/absent.safetensors", load_weights=False)


def test_what_the_file_has_too_much_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({**trained(), "mask_head.extra": torch.zeros(1)}, file)
    build(weights=str(file))
    assert "1 of the file have no place in the model" in caplog.text


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"other.weight": torch.zeros(2)}, r"none of the 1 tensors of .* fits the MaskRCNN"),
        ({"neck.lateral.0.bias": torch.zeros(16)}, r"another backbone: (\d+) of the model's \1 tensors do not fit"),
    ],
)
def test_another_model_s_weights_are_refused(tensors: dict[str, Tensor], words: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file(tensors, file)
    with pytest.raises(ValueError, match=words) as caught:
        build(weights=str(file))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model\.weights: there is no file .*absent"):
        build(weights=str(tmp_path / "absent.safetensors"))
    (tmp_path / "text").write_text("nothing")
    with pytest.raises(ValueError, match=r"model\.weights: .*text is no readable safetensors file"):
        build(weights=str(tmp_path / "text"))


def test_a_name_is_not_built() -> None:
    with pytest.raises(ValueError, match="'published'"):
        build_model(Published(source="x@y", name="x"), num_classes=3)
