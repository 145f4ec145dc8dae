"""A small Mask R-CNN in a published folder, and scenes to look at."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from detcore.config import MaskRCNN, TimmBackbone
from detcore.config.model import FPN, RPN, Anchors, BoxHead, MaskHead, Selection
from detcore.models import build_model

LABELS = ("circle", "square", "bar")
RECIPE = MaskRCNN(
    name="tiny",
    backbone=TimmBackbone(name="test_efficientnet", weights="none"),
    neck=FPN(channels=16),
    rpn=RPN(anchors=Anchors(sizes=((16,), (24,), (40,), (64,), (96,))), pre_nms_topk_test=100, post_nms_topk_test=50),
    box_head=BoxHead(fc_channels=32, sampling_ratio=2),
    mask_head=MaskHead(num_convs=1, conv_channels=16, sampling_ratio=2),
    selection=Selection(max_detections=20),
)


def publish(folder: Path, changes: dict[str, Any] | None = None) -> Path:
    """The recipe with random weights, spread until scores differ clearly from each other."""
    torch.manual_seed(1)
    model = build_model(RECIPE, num_classes=len(LABELS), load_weights=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not name.startswith("backbone"):
                torch.nn.init.kaiming_normal_(parameter)
    folder.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "weights.safetensors"
    )
    description = {
        "format_version": 1,
        "model": RECIPE.model_dump(mode="json"),
        "num_classes": len(LABELS),
        "labels": LABELS,
        "preprocessing": {
            "image_mean": model.image_mean,
            "image_std": model.image_std,
            "transform": {"type": "resize_shortest_edge", "sizes": [96], "max_size": 160},
            "size_divisor": 32,
        },
        "metrics": {"box_ap": 12.5},
        "data": {"name": "shapes", "content_hash": "0" * 64},
        "weights_sha256": hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest(),
        **(changes or {}),
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def publish_changed(tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Publishes with some values of `model.json` changed."""
    return lambda changes: publish(tmp_path / "changed", changes)


def scene(height: int, width: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(60, 120, (height, width, 3), dtype=np.uint8))
    pen = ImageDraw.Draw(image)
    for shape in (pen.ellipse, pen.rectangle, pen.ellipse):
        x, y = rng.uniform(0, (width * 0.7, height * 0.7))
        size = rng.uniform(0.2, 0.5) * min(height, width)
        shape((x, y, x + size, y + size), fill=tuple(rng.integers(0, 255, 3).tolist()))
    return image


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of three images of two shapes, and a text."""
    folder = tmp_path / "scenes"
    folder.mkdir()
    scene(120, 150, 1).save(folder / "b.png")
    scene(150, 120, 2).save(folder / "a.jpg")
    scene(120, 150, 3).save(folder / "c.PNG")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.fixture
def draw_scene() -> Callable[[int, int, int], Image.Image]:
    """An image of a height, a width and a seed."""
    return scene
