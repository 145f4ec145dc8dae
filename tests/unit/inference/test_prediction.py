import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from detcore.inference import Prediction
from detcore.ops import PanopticSegment


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


def test_all_kinds_survive_json_and_are_drawn(prediction: Prediction) -> None:
    semantic = np.zeros((20, 30), np.uint8)
    semantic[:, 15:] = 2
    segments = np.where(semantic == 2, 5, 0).astype(np.int32)
    whole = replace(
        prediction,
        keypoints=np.array([[[4.5, 3.5, 0.9], [8.5, 9.5, 0.8]], [[2.0, 2.0, 0.1], [20.0, 9.0, 0.2]]]),
        keypoint_names=("head", "foot"),
        skeleton=((0, 1),),
        boxes_xywha=np.array([[6.0, 6.0, 6.0, 8.0, 30.0], [15.0, 10.0, 20.0, 10.0, -10.0]]),
        semantic=semantic,
        semantic_names=("things", "sky", "sea"),
        panoptic=segments,
        segments=(PanopticSegment(id=5, is_thing=False, category=2, score=None, area=300),),
    )
    found = json.loads(json.dumps(whole.to_dict()))
    assert found["keypoint_names"] == ["head", "foot"]
    assert found["detections"][0]["keypoints"] == [[4.5, 3.5, 0.9], [8.5, 9.5, 0.8]]
    assert found["detections"][1]["box_xywha"] == [15.0, 10.0, 20.0, 10.0, -10.0]
    assert [(row["class_name"], coco_mask.area(row["mask"])) for row in found["semantic"]] == [
        ("things", 300),
        ("sea", 300),
    ]
    assert {key: found["panoptic"][0][key] for key in ("id", "is_thing", "category", "area")} == {
        "id": 5,
        "is_thing": False,
        "category": 2,
        "area": 300,
    }
    row = whole.to_coco(1)[0]
    assert row["keypoints"] == [4.0, 3.0, 0.9, 8.0, 9.0, 0.8]  # COCO numbers pixels
    assert row["bbox_rotated"] == [6.0, 6.0, 6.0, 8.0, 30.0]
    regions = whole.drawing().regions
    assert regions is not None and regions.names == {5: "sea"}
    assert whole.draw().size == (720, 480)
    alone = replace(whole, panoptic=None, segments=()).drawing().regions
    assert alone is not None and alone.names == {1: "things", 3: "sea"}


def test_what_was_found_in_words(prediction: Prediction) -> None:
    assert prediction.in_words() == "1 × bar, 1 × circle"
    semantic = np.zeros((20, 30), np.uint8)
    semantic[:, 24:] = 2
    semantic[0, 0] = 1  # too small to be told
    nothing = replace(prediction, class_names=(), boxes_xyxy=np.zeros((0, 4)), scores=np.zeros(0), labels=np.zeros(0))
    assert nothing.in_words() == "nothing"
    names = ("sea", "bird", "sky")
    assert replace(nothing, semantic=semantic, semantic_names=names).in_words() == "sea 80%, sky 20%"
    stuff = (
        PanopticSegment(id=5, category=2, is_thing=False, area=150, score=None),
        PanopticSegment(id=6, category=0, is_thing=True, area=60, score=0.5),
    )
    ids = np.zeros((20, 30), np.int32)
    ids[:5], ids[5:7] = 5, 6
    whole = replace(prediction, panoptic=ids, segments=stuff, semantic_names=names)
    assert whole.in_words() == "1 × bar, 1 × circle; sky 25%"
