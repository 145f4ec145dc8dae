"""Pictures are drawn behind the model: in order, all of them, and what goes wrong is heard of."""

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detcore.inference import load_folder
from detcore.inference.pictures import PictureWriter
from detcore.inference.prediction import Prediction


@pytest.fixture
def predictions(published: Path) -> list[Prediction]:
    image = np.full((40, 60, 3), 90, np.uint8)
    return list(load_folder(published, device="cpu").stream([image] * 5))


def test_nothing_waits_for_a_picture(
    predictions: list[Prediction], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is drawn only once all have been handed over."""
    handed_over, draw = threading.Event(), Prediction.draw

    def after_all(self: Prediction) -> Image.Image:
        assert handed_over.wait(20)
        return draw(self)

    monkeypatch.setattr(Prediction, "draw", after_all)
    with PictureWriter(tmp_path / "drawn") as writer:
        for prediction in predictions:
            writer.add(prediction)
        assert not any((tmp_path / "drawn").iterdir())
        handed_over.set()
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        "image-2.jpg", "image-3.jpg", "image-4.jpg", "image-5.jpg", "image.jpg"
    ]  # fmt: skip


def test_a_picture_that_cannot_be_written_ends_it(predictions: list[Prediction], tmp_path: Path) -> None:
    (tmp_path / "drawn" / "image-2.jpg").mkdir(parents=True)  # a folder lies where the second is to be
    with pytest.raises(IsADirectoryError), PictureWriter(tmp_path / "drawn") as writer:
        for prediction in predictions:
            writer.add(prediction)
    assert (tmp_path / "drawn" / "image.jpg").is_file()


def test_no_folder_can_be_where_a_file_is(predictions: list[Prediction], tmp_path: Path) -> None:
    file = tmp_path / "scene.jpg"
    file.write_text("kept")
    with pytest.raises(ValueError, match=r"scene.jpg: is a file; name a folder for the drawn pictures"):
        PictureWriter(file)
    with pytest.raises(ValueError, match=r"scene.jpg: is a file; name a folder"):
        predictions[0].save(file, "coco")
    assert file.read_text() == "kept"
