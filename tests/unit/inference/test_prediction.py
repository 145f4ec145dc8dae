import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from detcore.inference import Prediction


@pytest.fixture
def prediction(tmp_path: Path) -> Prediction:
    path = tmp_path / "scene.png"
    Image.new("RGB", (30, 20)).save(path)
    masks = np.zeros((2, 20, 30), dtype=bool)
    masks[0, 2:10, 3:9] = True
    return Prediction(
        source=path,
        height=20,
        width=30,
        boxes_xyxy=np.array([[3.0, 2.0, 9.0, 10.0], [1.5, 1.0, 29.0, 19.0]]),
        scores=np.array([0.75, 0.5], dtype=np.float32),
        labels=np.array([2, 0]),
        class_names=("bar", "circle"),
        masks=masks,
    )


def test_to_dict_survives_json(prediction: Prediction) -> None:
    found = json.loads(json.dumps(prediction.to_dict()))
    assert found["image"] == str(prediction.source)
    assert (found["height"], found["width"]) == (20, 30)
    first, second = found["detections"]
    assert {key: first[key] for key in ("class_name", "label", "score", "box_xyxy")} == {
        "class_name": "bar",
        "label": 2,
        "score": 0.75,
        "box_xyxy": [3.0, 2.0, 9.0, 10.0],
    }
    assert prediction.masks is not None
    for row, mask in zip((first, second), prediction.masks, strict=True):
        np.testing.assert_array_equal(coco_mask.decode(row["mask"]).astype(bool), mask)


def test_to_coco(prediction: Prediction) -> None:
    first, second = json.loads(json.dumps(prediction.to_coco(17)))
    assert first["segmentation"]["size"] == [20, 30]
    assert coco_mask.area(first["segmentation"]) == 48
    del second["segmentation"]
    assert second == {"image_id": 17, "category_id": 1, "bbox": [1.5, 1.0, 27.5, 18.0], "score": 0.5}


def test_draw_reads_the_file_again(prediction: Prediction) -> None:
    picture = prediction.draw()
    assert picture.size == (720, 480)
    assert len(picture.getcolors(maxcolors=2**24) or []) > 3
    assert prediction.drawing().captions == ["bar 0.75", "circle 0.50"]
