"""Object keypoint similarity and what is made of it."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detcore.config import EvaluationConfig
from detcore.evaluation import Evaluator, GroundTruth, ImageDetections
from detcore.evaluation.coco import LoadedTruth, accumulate_hotcoco, accumulate_pycocotools
from detcore.evaluation.results import Results


def noisy(truth: dict[str, Any], seed: int) -> Results:
    """Every object of a truth with its points moved by some pixels, and some more among them."""
    rng = np.random.default_rng(seed)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    objects = [a for a in truth["annotations"] if a.get("num_keypoints")]
    objects = sorted(objects + objects[::3], key=lambda a: a["image_id"])
    points = np.array([a["keypoints"] for a in objects], np.float64).reshape(len(objects), -1, 3)
    points[..., :2] += rng.normal(0, 1, points[..., :2].shape) * rng.uniform(0, 12, (len(objects), 1, 1))
    points[..., 2] = rng.uniform(0, 1, points.shape[:2])
    boxes = np.array([a["bbox"] for a in objects])
    return Results(
        image_ids=np.array([a["image_id"] for a in objects]),
        category_ids=np.array([a["category_id"] for a in objects]),
        boxes_xyxy=np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1),
        scores=rng.uniform(0.1, 1, len(objects)),
        sizes=np.array([sizes[a["image_id"]] for a in objects]),
        keypoints=points + np.array([0.5, 0.5, 0]),
    )


@pytest.mark.parametrize("sigmas", [None, np.linspace(0.02, 0.1, 17)])
def test_hotcoco_equals_pycocotools_on_cocos_people(shared: Path, sigmas: Any) -> None:
    path = shared / "data" / "coco_mini" / "annotations" / "person_keypoints_val.json"
    truth = json.loads(path.read_text())
    results, before = noisy(truth, 0), copy.deepcopy(truth)
    ours = accumulate_hotcoco(LoadedTruth(truth), results, "keypoints", sigmas=sigmas)
    oracle = accumulate_pycocotools(LoadedTruth(truth), results, "keypoints", sigmas=sigmas)
    assert truth == before
    assert ours.precision.shape == (10, 101, len(truth["categories"]), 3, 1)
    assert 0.2 < ours.precision[ours.precision > -1].mean() < 0.9
    np.testing.assert_allclose(ours.precision, oracle.precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.recall, oracle.recall, rtol=0, atol=1e-12)


@pytest.mark.parametrize("accumulate", [accumulate_hotcoco, accumulate_pycocotools])
def test_nothing_found_is_no_recall(shared: Path, accumulate: Any) -> None:
    truth = json.loads((shared / "data" / "coco_mini" / "annotations" / "person_keypoints_val.json").read_text())
    none = Results(
        image_ids=np.zeros(0, np.int64),
        category_ids=np.zeros(0, np.int64),
        boxes_xyxy=np.zeros((0, 4)),
        scores=np.zeros(0),
        sizes=np.zeros((0, 2), np.int64),
        keypoints=np.zeros((0, 17, 3)),
    )
    assert none.keypoint_results() == []
    recall = accumulate(LoadedTruth(truth), none, "keypoints").recall
    assert (recall > -1).any() and recall.max() == 0


def test_published_example_of_results_is_read(shared: Path) -> None:
    # The COCO API publishes AP .372 for these against a truth that is not at hand; people's boxes stand in for it.
    folder = shared / "fixtures" / "coco_eval"
    rows = json.loads((folder / "person_keypoints_val2014_fakekeypoints100_results.json").read_text())
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    by_image = {row["image_id"]: row for row in rows}
    truth["annotations"] = [
        {**a, "keypoints": by_image[a["image_id"]]["keypoints"], "num_keypoints": 5 + i % 9}
        for i, a in enumerate(truth["annotations"])
        if a["category_id"] == 1 and a["image_id"] in by_image
    ]
    points = np.array([row["keypoints"] for row in rows], np.float64).reshape(len(rows), 17, 3)
    results = Results(
        image_ids=np.array([row["image_id"] for row in rows]),
        category_ids=np.array([row["category_id"] for row in rows]),
        boxes_xyxy=np.zeros((len(rows), 4)),
        scores=np.array([row["score"] for row in rows]),
        sizes=np.ones((len(rows), 2), np.int64),
        keypoints=points + np.array([0.5, 0.5, 0]),
    )
    assert results.keypoint_results() == [{**row, "keypoints": list(map(float, row["keypoints"]))} for row in rows]
    ours, oracle = (f(LoadedTruth(truth), results, "keypoints") for f in (accumulate_hotcoco, accumulate_pycocotools))
    assert 0.0 < ours.precision[ours.precision > -1].mean() < 1.0
    np.testing.assert_allclose(ours.precision, oracle.precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(ours.recall, oracle.recall, rtol=0, atol=1e-12)


def one_object(sigma: float, distance: float) -> dict[str, float]:
    """Two points of an object of 40 x 40 pixels, one of which is labelled; detected `distance` pixels beside it."""
    truth = {
        "images": [{"id": 1, "height": 100, "width": 100}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "bbox": [10, 10, 40, 40],
                "area": 1600.0,
                "iscrowd": 0,
                "keypoints": [20, 20, 2, 0, 0, 0],
                "num_keypoints": 1,
            }
        ],
    }
    settings = EvaluationConfig(oks_sigmas=(sigma, 0.1))
    evaluator = Evaluator(GroundTruth(coco=truth), predicts=("keypoints",), settings=settings)
    evaluator.add_image(
        ImageDetections(
            image_id=1,
            boxes_xyxy=np.array([[10.0, 10, 50, 50]]),
            scores=np.array([0.9]),
            labels=np.array([0]),
            keypoints=np.array([[[20.5 + distance, 20.5, 0.7], [0.0, 0, 0]]]),
        )
    )
    evaluation = evaluator.compute()
    assert evaluation.per_class["a"]["keypoint_ap"] == evaluation.metrics["keypoint_ap"]
    assert set(evaluation.curves) == {"keypoint"}
    return evaluation.metrics


def test_similarity_by_its_formula() -> None:
    # exp(-d² / (2 s² k²)) with s² the area and k twice sigma (cocodataset.org, keypoints evaluation).
    for distance in (0.0, 4.0, 8.0):
        similarity = np.exp(-(distance**2) / (2 * 1600 * (2 * 0.1) ** 2))
        passed = np.mean(similarity >= np.linspace(0.5, 0.95, 10) - 1e-12)
        metrics = one_object(0.1, distance)
        assert metrics["keypoint_ap"] == pytest.approx(100 * passed)
        assert metrics["keypoint_ar"] == pytest.approx(100 * passed)
        assert metrics["keypoint_ap50"] == pytest.approx(100.0 * (similarity >= 0.5))
    assert set(metrics) == {f"keypoint_{n}" for n in ("ap", "ap50", "ap75", "ap_medium", "ar")}


def test_other_points_need_sigmas_of_their_own() -> None:
    truth = json.loads(json.dumps({"images": [], "categories": [{"id": 1, "name": "a"}]}))
    truth["annotations"] = [{"id": 1, "category_id": 1, "keypoints": [1, 1, 2] * 5, "num_keypoints": 5}]
    with pytest.raises(ValueError, match=r"sigmas are for 17 keypoints, the objects have 5: set engine\.evaluation"):
        Evaluator(GroundTruth(coco=truth), predicts=("keypoints",))
    with pytest.raises(ValueError, match=r"oks_sigmas is for 2 keypoints, the objects have 5"):
        Evaluator(GroundTruth(coco=truth), predicts=("keypoints",), settings=EvaluationConfig(oks_sigmas=(0.1, 0.1)))
