from typing import Any

import numpy as np
import pytest

from detcore.evaluation import Evaluator, GroundTruth, ImageDetections


def truth_of(boxes: list[tuple[int, list[float]]]) -> dict[str, Any]:
    """One image of 200 x 200; (category id, xywh) objects; classes 'a', 'b', 'c' with ids 1, 2, 3."""
    return {
        "images": [{"id": 5, "height": 200, "width": 200}],
        "categories": [{"id": i, "name": name} for i, name in enumerate("abc", start=1)],
        "annotations": [
            {"id": i, "image_id": 5, "category_id": c, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (c, box) in enumerate(boxes, start=1)
        ],
    }


def evaluate(truth: dict[str, Any], rows: list[tuple[int, list[float], float]]) -> Any:
    evaluator = Evaluator(GroundTruth(coco=truth))
    evaluator.add_image(
        ImageDetections(
            image_id=5,
            boxes_xyxy=np.array([box for _, box, _ in rows], dtype=np.float64).reshape(-1, 4),
            scores=np.array([score for _, _, score in rows]),
            labels=np.array([label for label, _, _ in rows], dtype=np.int64),
        )
    )
    return evaluator.compute()


TWO = truth_of([(1, [0, 0, 20, 20]), (1, [100, 100, 50, 50])])


def test_ap_by_hand() -> None:
    # Hit 0.9, miss 0.8, hit 0.7 with two objects: precision 1 up to recall .5 (51 of COCO's 101 points), then 2/3.
    result = evaluate(TWO, [(0, [0, 0, 20, 20], 0.9), (0, [60, 0, 80, 20], 0.8), (0, [100, 100, 150, 150], 0.7)])
    expected = 100 * (51 * 1 + 50 * 2 / 3) / 101
    assert result.metrics["box_ap50"] == pytest.approx(expected, abs=1e-9)
    assert result.metrics["box_ap"] == pytest.approx(expected, abs=1e-9)  # both hits are exact at every IoU
    assert result.metrics["box_ar100"] == pytest.approx(100.0)
    same = {name: result.metrics[name] for name in ("box_ap", "box_ap50", "box_ap75", "box_ar100")}
    assert result.per_class == {"a": same}


def test_ap75_needs_the_better_box() -> None:
    # 20 x 20 against 20 x 12: IoU 0.6.
    result = evaluate(TWO, [(0, [0, 0, 20, 12], 0.9), (0, [100, 100, 150, 150], 0.7)])
    assert result.metrics["box_ap50"] == pytest.approx(100.0)
    # At 0.75 the first is a miss: precision 1/2 up to recall .5, then nothing.
    assert result.metrics["box_ap75"] == pytest.approx(100 * 51 * 0.5 / 101)


def test_sizes_without_objects_have_no_metric() -> None:
    metrics = evaluate(TWO, [(0, [0, 0, 20, 20], 0.9)]).metrics
    assert metrics["box_ap_small"] == pytest.approx(100.0)  # 20 x 20 < 32 x 32
    assert metrics["box_ap_medium"] == 0.0
    assert "box_ap_large" not in metrics
    assert all(np.isfinite(value) for value in metrics.values())


def test_no_detections_is_zero_and_finite() -> None:
    result = evaluate(TWO, [])
    assert result.metrics == dict.fromkeys(result.metrics, 0.0)
    assert {"box_ap", "box_ap50", "box_ap75", "box_ar100"} <= result.metrics.keys()
    assert result.detections == []
    assert result.curves["box"].mean.max() == 0.0


def test_a_class_without_objects_neither_counts_nor_is_listed() -> None:
    truth = truth_of([(1, [0, 0, 20, 20]), (3, [100, 100, 50, 50])])
    result = evaluate(truth, [(0, [0, 0, 20, 20], 0.9), (1, [30, 30, 90, 90], 0.95)])
    assert result.metrics["box_ap"] == pytest.approx(50.0)  # mean of a: 100 and c: 0; b is not there
    assert {name: table["box_ap"] for name, table in result.per_class.items()} == pytest.approx({"a": 100.0, "c": 0.0})
    assert set(result.curves["box"].by_class) == {"a", "c"}
    np.testing.assert_allclose(result.curves["box"].mean, 0.5)
    assert result.curves["box"].rows()[0] == {"class": "mean", "recall": 0.0, "precision": pytest.approx(0.5)}
    assert len(result.curves["box"].rows()) == 3 * 101


def test_no_ground_truth_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"nothing to compare .* \(boxes: it has no object; masks: it has no object\)"):
        Evaluator(GroundTruth(coco=truth_of([])), predicts=("boxes", "masks"))
    with pytest.raises(ValueError, match="2 of 2 objects have no masks, the first is annotation 1"):
        Evaluator(GroundTruth(coco=TWO), predicts=("masks",))
    with pytest.raises(ValueError, match="'tracks' is no kind of prediction: take boxes, proposals, masks"):
        Evaluator(GroundTruth(coco=TWO), predicts=("tracks",))


def test_what_the_truth_lacks_is_not_compared() -> None:
    evaluator = Evaluator(GroundTruth(coco=TWO), predicts=("boxes", "masks", "keypoints", "semantic", "panoptic"))
    assert evaluator.kinds == ("boxes",)
