"""Our own COCO matching, against pycocotools where boxes are upright, and by hand where they are not."""

from typing import Any

import numpy as np
import pytest

from detcore.evaluation import Evaluator, GroundTruth, ImageDetections, Results
from detcore.evaluation.coco import LoadedTruth, accumulate_pycocotools
from detcore.evaluation.rotated import accumulate_rotated


def columns(found: list[ImageDetections]) -> Results:
    boxes = np.concatenate([image.boxes_xyxy for image in found])
    size = boxes[:, 2:] - boxes[:, :2]
    return Results(
        image_ids=np.concatenate([np.full(len(image.scores), image.image_id) for image in found]),
        category_ids=np.concatenate([image.labels + 1 for image in found]),
        boxes_xyxy=boxes,
        scores=np.concatenate([image.scores for image in found]),
        sizes=np.tile((96, 128), (len(boxes), 1)),
        boxes_xywha=np.concatenate((boxes[:, :2] + size / 2, size, np.zeros((len(boxes), 1))), axis=1),
    )


def as_rotated(truth: dict[str, Any]) -> dict[str, Any]:
    """The same truth, its boxes said as rotated ones of angle 0; crowd regions keep only the upright one."""
    annotations = []
    for annotation in truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        rotated = [x + width / 2, y + height / 2, width, height, 0.0]
        annotations.append(annotation if annotation["iscrowd"] else {**annotation, "bbox_rotated": rotated})
    return {**truth, "annotations": annotations}


def test_upright_boxes_give_pycocotools_arrays(truth: dict[str, Any], found: list[ImageDetections]) -> None:
    assert sum(a["iscrowd"] for a in truth["annotations"]) >= 5
    for annotation in truth["annotations"]:  # areas of all sizes, so that some objects are ignored in each range
        annotation["area"] *= (0.1, 1.0, 4.0)[annotation["id"] % 3]
    results = columns(found)
    ours, oracle = (
        accumulate_rotated(as_rotated(truth), results),
        accumulate_pycocotools(LoadedTruth(truth), results, "bbox"),
    )
    assert all(((oracle.precision[..., area, 2] > 0) & (oracle.precision[..., area, 2] < 1)).any() for area in range(4))
    np.testing.assert_allclose(ours.precision, oracle.precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.recall, oracle.recall, rtol=0, atol=1e-12)


def test_more_detections_than_count(truth: dict[str, Any], found: list[ImageDetections]) -> None:
    rng = np.random.default_rng(3)
    own, many = found[1], rng.integers(0, len(found[1].scores), 150)
    crowded = ImageDetections(
        image_id=own.image_id,
        boxes_xyxy=own.boxes_xyxy[many] + rng.normal(0, 3, (150, 4)),
        scores=rng.uniform(0, 1, 150),
        labels=own.labels[many],
    )
    results = columns([found[0], crowded, *found[2:]])
    ours, oracle = (
        accumulate_rotated(as_rotated(truth), results),
        accumulate_pycocotools(LoadedTruth(truth), results, "bbox"),
    )
    np.testing.assert_allclose(ours.precision, oracle.precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.recall, oracle.recall, rtol=0, atol=1e-12)


def turned(angle: float, *, crowd: bool = False, detected: tuple[float, ...] = (0.0,)) -> dict[str, float]:
    """An object of 40 x 20 pixels at an angle, beside an exact hit elsewhere, found at angles that differ from it."""
    boxes = [[60.0, 60.0, 40.0, 20.0, angle], [160.0, 60.0, 40.0, 20.0, 10.0]]
    truth = {
        "images": [{"id": 1, "height": 200, "width": 200}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {
                "id": i,
                "image_id": 1,
                "category_id": 1,
                "bbox": [0, 0, 9, 9],
                "bbox_rotated": box,
                "iscrowd": int(crowd and i == 0),
            }
            for i, box in enumerate(boxes)
        ],
    }
    evaluator = Evaluator(GroundTruth(coco=truth), predicts=("rotated",))
    found = np.array([[*boxes[0][:4], angle + d] for d in detected] + [boxes[1]])
    evaluator.add_image(
        ImageDetections(
            image_id=1,
            boxes_xyxy=np.tile([0.0, 0, 9, 9], (len(found), 1)),
            scores=np.linspace(0.9, 0.5, len(found)),
            labels=np.zeros(len(found), np.int64),
            boxes_xywha=found,
        )
    )
    evaluation = evaluator.compute()
    assert set(evaluation.curves) == {"rotated"} and evaluation.per_class["a"]["rotated_ap"] >= 0
    assert evaluation.detections[0]["bbox_rotated"] == found[0].tolist()
    return evaluation.metrics


def test_angles_count() -> None:
    assert turned(30.0)["rotated_ap"] == pytest.approx(100.0)
    assert turned(30.0, detected=(180.0,))["rotated_ap"] == pytest.approx(100.0)  # the same pixels
    # At a right angle a 40 x 20 box shares 20 x 20 with itself: IoU 400 / 1200. The miss comes first: precision 1/2
    # for the half of the objects that is found, at recalls up to .5 (51 of 101).
    assert turned(30.0, detected=(90.0,))["rotated_ap50"] == pytest.approx(100 * 0.5 * 51 / 101)
    assert set(turned(30.0)) == {f"rotated_{n}" for n in ("ap", "ap50", "ap75", "ap_small", "ar100")}


def test_what_lies_in_a_crowd_region_is_no_miss() -> None:
    # A square in the middle of the region has IoU 1/3 with it and lies in it wholly.
    assert turned(30.0, crowd=True, detected=(0.0, 0.0, 0.0))["rotated_ap"] == pytest.approx(100.0)
    assert turned(30.0, crowd=True, detected=(90.0,))["rotated_ap"] == pytest.approx(50.0)
