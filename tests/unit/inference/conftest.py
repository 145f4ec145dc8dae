"""A small Mask R-CNN in a published folder, and scenes to look at."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw
from published_shapes import publish


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
