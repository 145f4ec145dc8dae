import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from detcore.inference import Prediction, load_folder, read_description
from detcore.structures.batch import Batch, Detections

Publish = Callable[[dict[str, Any]], Path]


def test_what_was_published_is_read(published: Path) -> None:
    predictor = load_folder(str(published), device="cpu")
    assert predictor.labels == ("circle", "square", "bar")
    assert predictor.preprocessing.size_divisor == 32
    assert not predictor.model.training
    description = read_description(published)
    assert description.model.name == "tiny"
    assert description.metrics == {"box_ap": 12.5}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 2}, "format_version 2, this detcore reads 1"),
        ({"colour": "blue"}, "colour: Extra inputs are not permitted"),
        ({"labels": ["circle"]}, "1 labels for 3 classes"),
        ({"num_classes": 0}, "num_classes: Input should be greater than or equal to 1"),
        ({"weights_sha256": "ab" * 32}, "SHA-256 .* model.json says abababababab"),
        ({"num_classes": 4, "labels": ["a", "b", "c", "d"]}, "the weights do not fit the model"),
        ({"model": {"type": "own"}}, "a model of your own; load it with model="),
    ],
)
def test_a_folder_that_does_not_fit_is_refused(publish_changed: Publish, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        load_folder(publish_changed(changes))
    assert "\n" not in str(error.value)


def test_missing_and_damaged_files(publish_changed: Publish, tmp_path: Path) -> None:
    folder = publish_changed({})
    weights = folder / "weights.safetensors"
    with pytest.raises(ValueError, match=r"is no published model: it has no model.json"):
        load_folder(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(ValueError, match="SHA-256"):
        load_folder(folder)
    weights.unlink()
    with pytest.raises(ValueError, match=r"weights.safetensors is missing"):
        load_folder(folder)
    (folder / "model.json").write_text("{")
    with pytest.raises(ValueError, match=r"model.json is not JSON"):
        load_folder(folder)


def test_weights_that_are_no_safetensors(publish_changed: Publish) -> None:
    folder = publish_changed({})
    torch.save({"weight": torch.ones(1)}, folder / "weights.safetensors")
    description = json.loads((folder / "model.json").read_text())
    description["weights_sha256"] = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    (folder / "model.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"weights.safetensors: "):  # a pickle is not opened, whatever it is called
        load_folder(folder)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there(published: Path, device: str) -> None:
    if device == "cuda:99" and torch.cuda.is_available():
        pytest.skip("a machine with CUDA says it in its own words")
    with pytest.raises(ValueError, match=f"device '{device}'"):
        load_folder(published, device=device)


class Brightest(nn.Module):
    """One box about the upper left quarter, scored by a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Parameter(torch.tensor(0.0))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.score}

    def detect(self, batch: Batch) -> Detections:
        rows = len(batch)
        height, width = batch.image_sizes.float().unbind(dim=1)
        zero = torch.zeros(rows)
        return Detections(
            boxes_xyxy=torch.stack((zero, zero, width / 2, height / 2), dim=1)[:, None],
            scores=self.score.detach().expand(rows, 1),
            labels=torch.ones(rows, 1, dtype=torch.int64),
            valid=batch.real[:, None],
        )


def test_a_model_of_ones_own(tmp_path: Path, publish_changed: Publish) -> None:
    save_file({"score": torch.tensor(0.75)}, tmp_path / "own.safetensors")
    digest = hashlib.sha256((tmp_path / "own.safetensors").read_bytes()).hexdigest()
    folder = publish_changed({"model": {"type": "own"}, "weights_sha256": digest})
    (tmp_path / "own.safetensors").replace(folder / "weights.safetensors")
    found = load_folder(folder, model=Brightest(), device="cpu").predict(np.zeros((100, 200, 3), np.uint8))
    assert isinstance(found, Prediction)
    np.testing.assert_allclose(found.boxes_xyxy, [[0, 0, 100, 50]])
    assert found.scores.tolist() == [0.75] and found.class_names == ("square",) and found.masks is None
    assert "mask" not in found.to_dict()["detections"][0]
    assert "segmentation" not in found.to_coco(1)[0]


def test_own_module_for_a_built_in_detector_is_refused(published: Path) -> None:
    with pytest.raises(ValueError, match="holds a mask_rcnn; model=… is for modules of your own"):
        load_folder(published, model=Brightest())
