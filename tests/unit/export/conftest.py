"""Small detectors in published folders, and images to compare on."""

import contextlib
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_detectors import NUM_CLASSES, SMALL

from detcore.cli import main
from detcore.models import build_model


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Publishes one of the small detectors by its name, with weights that give scores of their own."""

    def publish(family: str) -> Path:
        torch.manual_seed(1)
        number = NUM_CLASSES + (family in ("semantic_fpn", "deeplab"))
        model = build_model(SMALL[family], num_classes=number, load_weights=False)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() > 1 and not name.startswith("backbone"):
                    torch.nn.init.kaiming_normal_(parameter).mul_(0.5)
        folder = tmp_path_factory.mktemp(family)
        weights = folder / "weights.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, weights)
        description = {
            "format_version": 1,
            "model": SMALL[family].model_dump(mode="json"),
            "num_classes": number,
            "labels": [f"class {label}" for label in range(number)],
            "preprocessing": {
                "image_mean": model.image_mean,
                "image_std": model.image_std,
                "transform": {"type": "resize_shortest_edge", "sizes": [160], "max_size": 256},
                "size_divisor": model.size_divisor,
            },
            "metrics": {},
            "data": {"name": "noise", "content_hash": "0" * 64},
            "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        }
        (folder / "model.json").write_text(json.dumps(description))
        return folder

    return publish


@pytest.fixture(scope="session")
def mask_rcnn_onnx(
    published: Callable[[str], Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A published Mask R-CNN, and the ONNX file that the command made of it: that takes a while."""
    return by_command(published("mask_rcnn"), pictures, tmp_path_factory.mktemp("exported") / "model.onnx")


@pytest.fixture(scope="session")
def mask_rcnn_torch(
    published: Callable[[str], Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The same as a program of torch.export."""
    file = tmp_path_factory.mktemp("exported") / "model.pt2"
    return by_command(published("mask_rcnn"), pictures, file, "--format", "torch")


@pytest.fixture(scope="session")
def mask_rcnn_aoti(
    published: Callable[[str], Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The same as a package of AOTInductor: that takes minutes."""
    if torch.__version__ < "2.14":
        pytest.skip("AOTInductor of PyTorch 2.14 is needed")
    file = tmp_path_factory.mktemp("exported") / "model.pt2"
    return by_command(published("mask_rcnn"), pictures, file, "--format", "aoti")


def by_command(folder: Path, pictures: Path, file: Path, *options: str) -> tuple[Path, Path]:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["export", str(folder), "--images", str(pictures), "--out", str(file), *options]) == 0
    assert f"{file}: 3 images" in printed.getvalue()
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return folder, file


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three images: two of one padded size, one of another."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (height, width) in enumerate(((150, 200), (160, 210), (200, 120))):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 255, (height // 10, width // 10, 3), dtype=np.uint8))
        coarse.resize((width, height)).save(folder / f"{number}.png")
    return folder
