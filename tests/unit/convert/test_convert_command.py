"""`detcore convert`: a checkpoint to a published model and back."""

import json
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from detectron2_reference import read_reference
from safetensors.torch import load_file
from torch import Tensor

import detcore
from detcore.cli import main
from detcore.convert import convert_detectron2, convert_to_detectron2
from detcore.convert.detectron2_guess import guess_settings
from detcore.convert.detectron2_settings import read_settings
from detcore.convert.reading import read_checkpoint

NAME = "mask_rcnn_fpn"
GUESSED = (
    "cascade_mask_rcnn_fpn",
    "faster_rcnn_c4",
    "faster_rcnn_dc5",
    "faster_rcnn_fpn",
    "keypoint_rcnn_fpn",
    "mask_rcnn_fpn",
    "panoptic_fpn",
    "retinanet_fpn",
    "rpn_fpn",
)


@pytest.fixture(scope="module")
def tensors(shared: Path) -> dict[str, Tensor]:
    file = shared / "fixtures" / "detectron2" / f"{NAME}.safetensors"
    return {name[2:]: tensor for name, tensor in load_file(file).items() if name.startswith("w.")}


def write_pickle(file: Path, tensors: dict[str, Tensor]) -> None:
    """As Detectron2's model zoo has them, with tensors that are no weights."""
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    arrays["pixel_mean"] = torch.tensor([103.53, 116.28, 123.675]).view(3, 1, 1).numpy()
    arrays["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4).numpy()
    file.write_bytes(pickle.dumps({"model": arrays, "__author__": "Detectron2 Model Zoo"}, protocol=2))


def test_there_and_back(tensors: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pickle(tmp_path / "model_final.pkl", tensors)
    assert main(["convert", "detectron2", str(tmp_path / "model_final.pkl"), "--out", str(tmp_path / "ours")]) == 0
    assert "mask_rcnn" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "ours"), "--to", "detectron2", "--out", str(tmp_path / "back.pth")]) == 0
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    predictor = detcore.load(tmp_path / "ours")
    assert predictor.labels == ("0", "1", "2", "3", "4")


def test_what_was_converted_sees_what_it_saw_there(shared: Path, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({"model": tensors, "iteration": 7}, tmp_path / "model_final.pth")
    settings = json.loads((shared / "fixtures" / "detectron2" / f"{NAME}.json").read_text())["model"]
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"MODEL": settings}))
    (tmp_path / "config.yaml").write_text("_BASE_: base.yaml\nTEST:\n  DETECTIONS_PER_IMAGE: 20\n")
    assert main(["convert", "detectron2", str(tmp_path / "model_final.pth"), "--out", str(tmp_path / "ours")]) == 0
    reference = read_reference(shared, NAME)
    with torch.inference_mode():
        found = detcore.load(tmp_path / "ours", device="cpu").model.detect(reference.batch)
        expected = reference.model.detect(reference.batch)
    assert torch.equal(found.boxes_xyxy, expected.boxes_xyxy)


@pytest.mark.parametrize("name", GUESSED)
def test_tensors_tell_the_published_settings(shared: Path, name: str) -> None:
    """Of the parts that each architecture has."""
    file = shared / "fixtures" / "detectron2" / name
    wanted = json.loads(file.with_suffix(".json").read_text())["model"]
    state = {key[2:]: t for key, t in load_file(file.with_suffix(".safetensors")).items() if key.startswith("w.")}
    found = guess_settings(state)["MODEL"]
    parts = ["META_ARCHITECTURE", "MASK_ON", "KEYPOINT_ON", "PIXEL_MEAN", "PIXEL_STD", "RESNETS", "FPN", "BACKBONE"]
    if name == "retinanet_fpn":
        parts += ["RETINANET"]
    else:
        parts += ["RPN", "ANCHOR_GENERATOR"]
        if name != "rpn_fpn":
            parts += ["ROI_HEADS", "ROI_BOX_HEAD"]
        parts += ["ROI_MASK_HEAD"] * wanted["MASK_ON"] + ["ROI_KEYPOINT_HEAD"] * wanted["KEYPOINT_ON"]
        parts += ["SEM_SEG_HEAD", "PANOPTIC_FPN"] * (name == "panoptic_fpn")
    assert {part: found[part] for part in parts} == {part: wanted[part] for part in parts}


@pytest.mark.parametrize("name", [*GUESSED, "rotated_faster_rcnn_fpn"])
def test_every_family_goes_there_and_back(shared: Path, name: str, tmp_path: Path) -> None:
    file = shared / "fixtures" / "detectron2" / name
    state = {key[2:]: t for key, t in load_file(file.with_suffix(".safetensors")).items() if key.startswith("w.")}
    torch.save({"model": state}, tmp_path / "model_final.pth")
    settings = {"MODEL": json.loads(file.with_suffix(".json").read_text())["model"]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    convert_detectron2(tmp_path / "model_final.pth", tmp_path / "ours")
    convert_to_detectron2(tmp_path / "ours", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in state.items())
    (found,) = detcore.load(tmp_path / "ours", device="cpu").predict([np.zeros((96, 128, 3), np.uint8)])
    assert (found.height, found.width) == (96, 128)


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("it ran",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "model_final.pkl"
    file.write_bytes(pickle.dumps({"model": {"a": Malicious()}}))
    assert main(["convert", "detectron2", str(file), "--out", str(tmp_path / "ours")]) == 2
    captured = capsys.readouterr()
    assert "builtins.print" in captured.err
    assert "it ran" not in captured.out
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04garbage", b"\x80\x02}q\x00.", b"not a pickle"])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.pkl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pkl"):
        read_checkpoint(file)


def test_tensors_that_do_not_fit_are_named(
    tensors: dict[str, Tensor], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = {name: tensor for name, tensor in tensors.items() if name != "backbone.fpn_lateral3.bias"}
    changed["roi_heads.mask_head.extra.weight"] = torch.zeros(3)
    torch.save({"model": changed}, tmp_path / "model.pth")
    assert main(["convert", "detectron2", str(tmp_path / "model.pth"), "--out", str(tmp_path / "ours")]) == 2
    message = capsys.readouterr().err
    assert "neck.lateral.1.bias is missing" in message
    assert "mask_head.extra.weight" in message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensor: tensor / 0, "neck.lateral.1.weight has numbers that are not finite"),
        (Tensor.int, "neck.lateral.1.weight is torch.int32, the model's torch.float32"),
    ],
)
def test_tensors_that_cannot_be_weights_are_named(
    tensors: dict[str, Tensor], tmp_path: Path, change: Callable[[Tensor], Tensor], said: str
) -> None:
    name = "backbone.fpn_lateral3.weight"
    torch.save({**tensors, name: change(tensors[name])}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=said):
        convert_detectron2(tmp_path / "model.pth", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (torch.nn.Linear(2, 2), "it asks for torch.nn.modules.linear.Linear, which is no array (UnpicklingError)"),
        (b"hello there", "it is of another kind, or damaged (KeyError)"),
        (b"", "it is empty, or damaged (EOFError)"),
    ],
)
def test_what_torch_does_not_read_is_told_in_words_of_ours(tmp_path: Path, content: object, said: str) -> None:
    """Torch's own would have users load it all the same."""
    file = tmp_path / "model.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ValueError) as raised:
        read_checkpoint(file)
    assert str(raised.value) == f"{file} is no readable checkpoint: {said}"


def test_a_configuration_based_on_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("_BASE_: a.yaml\n")
    with pytest.raises(ValueError, match="based on itself"):
        read_settings(tmp_path / "a.yaml")


def global_of(module: str, name: str) -> bytes:
    """A pickle's instruction."""
    return f"c{module}\n{name}\n".encode()


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02"
        + global_of("collections", "Counter")
        + b"N}X\x05\x00\x00\x00evilsK\x01s\x86b.",  # sets an attribute
        b"\x80\x02"
        + global_of("numpy.core.multiarray", "_reconstruct")
        + global_of("numpy", "ndarray")
        + b"\x8a\x06\x00\x00\x00\x00\x00\x10\x85X\x01\x00\x00\x00b\x87R.",  # an array of 16 TiB
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff.",
        b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    ],
    ids=["attribute", "memory", "frame", "nesting"],
)
def test_a_hostile_pickle_is_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.pkl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"^\S*model\.pkl (is no readable checkpoint|holds a (list|ndarray))"):
        read_checkpoint(file)
    assert not hasattr(Counter, "evils")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": torch.zeros(3).to_sparse()}, "a is .*sparse"),
        ({"a": torch.zeros(3, dtype=torch.complex64)}, "a is torch.complex64"),
        ({"a": torch.zeros(3, device="meta")}, "a is without values"),
        ({"a": torch.zeros(3), "module.a": torch.ones(3)}, "has a twice"),
    ],
)
def test_tensors_that_are_no_plain_weights_are_refused(
    tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    torch.save({"model": tensors}, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=message):
        read_checkpoint(tmp_path / "model.pth")
