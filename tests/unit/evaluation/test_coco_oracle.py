"""hotcoco and pycocotools against each other and against published results."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detcore.evaluation import Evaluator, GroundTruth, ImageDetections, Results, coco
from detcore.evaluation.coco import Accumulated, IouType, LoadedTruth, accumulate_hotcoco, accumulate_pycocotools

BACKENDS = [accumulate_hotcoco, accumulate_pycocotools]


def results_of(rows: list[dict[str, Any]], truth: dict[str, Any]) -> Results:
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    boxes = np.array([row.get("bbox", (0, 0, 0, 0)) for row in rows], dtype=np.float64)
    boxes[:, 2:] += boxes[:, :2]
    return Results(
        image_ids=np.array([row["image_id"] for row in rows]),
        category_ids=np.array([row["category_id"] for row in rows]),
        boxes_xyxy=boxes,
        scores=np.array([row["score"] for row in rows], dtype=np.float64),
        sizes=np.array([sizes[row["image_id"]] for row in rows]),
        rles=[row["segmentation"]["counts"].encode() if "segmentation" in row else b"" for row in rows],
    )


def average(precision: np.ndarray) -> float:
    values = precision[:, :, :, 0, 2]
    return float(values[values > -1].mean())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("iou_type", "expected"), [("bbox", 0.5045806987249628), ("segm", 0.3195452758576433)])
def test_the_coco_apis_own_example(shared: Path, backend: Any, iou_type: IouType, expected: float) -> None:
    # Expected: pycocotools 2.0.11 on these files; the COCO API publishes .505 and .320 for them.
    folder = shared / "fixtures" / "coco_eval"
    truth = json.loads((folder / "instances_val2014_100.json").read_text())
    rows = json.loads((folder / f"instances_val2014_fake{iou_type}100_results.json").read_text())
    assert average(backend(LoadedTruth(truth), results_of(rows, truth), iou_type).precision) == pytest.approx(
        expected, abs=1e-12
    )


def equal(a: Accumulated, b: Accumulated) -> None:
    np.testing.assert_allclose(a.precision, b.precision, rtol=0, atol=1e-9)
    np.testing.assert_allclose(a.recall, b.recall, rtol=0, atol=1e-9)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_hotcoco_equals_pycocotools_with_crowds(truth: dict[str, Any], results: Results, iou_type: IouType) -> None:
    assert sum(a["iscrowd"] for a in truth["annotations"]) >= 5
    ours = accumulate_hotcoco(LoadedTruth(truth), results, iou_type)
    assert 0.2 < average(ours.precision) < 0.95  # neither empty nor perfect
    equal(ours, accumulate_pycocotools(LoadedTruth(truth), results, iou_type))


@pytest.mark.parametrize("backend", BACKENDS)
def test_annotation_zero_can_be_found(truth: dict[str, Any], backend: Any) -> None:
    # Alone, pycocotools takes the id of a matched object for a truth value.
    only = {**truth["annotations"][0], "id": 0, "iscrowd": 0}
    alone = {**truth, "annotations": [only]}
    exact = results_of([{**only, "score": 0.5}], alone)
    assert average(backend(LoadedTruth(alone), exact, "bbox").precision) == pytest.approx(1.0)


def test_a_crowd_without_mask_is_its_box_in_both(truth: dict[str, Any], results: Results) -> None:
    for annotation in truth["annotations"]:
        if annotation["iscrowd"]:
            del annotation["segmentation"]
    equal(
        accumulate_hotcoco(LoadedTruth(truth), results, "segm"),
        accumulate_pycocotools(LoadedTruth(truth), results, "segm"),
    )


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_detections_is_zero(truth: dict[str, Any], backend: Any, iou_type: IouType) -> None:
    ids, columns = np.zeros(0, np.int64), np.zeros(0)
    nothing = Results(
        image_ids=ids, category_ids=ids, boxes_xyxy=np.zeros((0, 4)), scores=columns, sizes=np.zeros((0, 2)), rles=[]
    )
    assert average(backend(LoadedTruth(truth), nothing, iou_type).precision) == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
def test_ground_truth_is_left_as_it_was(truth: dict[str, Any], results: Results, backend: Any) -> None:
    before = copy.deepcopy(truth)
    backend(LoadedTruth(truth), results, "segm")
    assert truth == before


def test_without_hotcoco_pycocotools_stands_in(
    truth: dict[str, Any], found: list[ImageDetections], monkeypatch: pytest.MonkeyPatch
) -> None:
    def metrics() -> dict[str, float]:
        evaluator = Evaluator(GroundTruth(coco=truth), predicts=("boxes", "masks"))
        for image in found:
            evaluator.add_image(image)
        return evaluator.compute().metrics

    expected = metrics()
    used = []
    monkeypatch.setattr(coco, "hotcoco", None)
    monkeypatch.setattr(
        coco, "accumulate_pycocotools", lambda *a, **b: used.append(a[2]) or accumulate_pycocotools(*a, **b)
    )
    assert metrics() == pytest.approx(expected, abs=1e-9)
    assert used == ["bbox", "segm"]
