from typing import Any

import numpy as np
import pytest

from detcore.evaluation import Evaluator, GroundTruth, ImageDetections


def metrics_of(truth: dict[str, Any], found: list[ImageDetections]) -> dict[str, float]:
    evaluator = Evaluator(GroundTruth(coco=truth), predicts=("proposals",))
    for image in found:
        evaluator.add_image(image)
    evaluation = evaluator.compute()
    assert evaluation.per_class == {} and evaluation.curves == {}
    return evaluation.metrics


def proposals(image_id: int, boxes: list[list[float]]) -> ImageDetections:
    """By falling score."""
    return ImageDetections(
        image_id=image_id,
        boxes_xyxy=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        scores=np.linspace(1.0, 0.1, len(boxes)),
        labels=np.zeros(len(boxes), np.int64),
    )


def truth_of(boxes: dict[int, list[list[float]]]) -> dict[str, Any]:
    """Images of 300 x 300, xywh objects of two classes in turn."""
    every = [(image, box) for image, own in boxes.items() for box in own]
    return {
        "images": [{"id": image, "height": 300, "width": 300} for image in boxes],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": 1 + i % 2, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for i, (image, box) in enumerate(every)
        ],
    }


def test_by_hand() -> None:
    truth = truth_of({9: [[0, 0, 10, 10], [50, 50, 100, 100]], 4: [[0, 0, 200, 200]], 5: []})
    found = [
        # The small one exactly, the large one with IoU 0.8: recalled at .5 to .8, 7 of 10 thresholds.
        proposals(9, [[0, 0, 10, 10], [50, 50, 150, 130]]),
        proposals(4, []),
        proposals(5, [[0, 0, 3, 3]]),
    ]
    expected = {
        "proposal_ar100": 100 * (1 + 0.7 + 0) / 3,
        "proposal_ar100_small": 100.0,
        "proposal_ar100_large": 100 * (0.7 + 0) / 2,  # both are above 96 x 96
    }
    more = {name.replace("100", "1000"): value for name, value in expected.items()}
    assert metrics_of(truth, found) == pytest.approx(expected | more)


def test_a_proposal_is_for_one_object_and_classes_do_not_matter() -> None:
    truth = truth_of({1: [[0, 0, 100, 100], [0, 0, 100, 80]]})
    # IoU 1 and .8 with the first; the second's best proposal is taken, so that it gets the other: IoU .8 * .9.
    found = [proposals(1, [[0, 0, 100, 100], [0, 0, 90, 80]])]
    recalls = [1.0 + (t <= 0.9) for t in np.linspace(0.5, 0.95, 10)]
    assert metrics_of(truth, found)["proposal_ar100"] == pytest.approx(100 * np.mean(recalls) / 2)


def test_the_limit_cuts_by_score() -> None:
    truth = truth_of({1: [[200, 200, 50, 50]]})
    found = [proposals(1, [[0.0, 0, 1 + i, 9] for i in range(100)] + [[200, 200, 250, 250]])]
    metrics = metrics_of(truth, found)
    assert (metrics["proposal_ar100"], metrics["proposal_ar1000"]) == (0.0, 100.0)


def test_crowds_do_not_count() -> None:
    truth = truth_of({1: [[0, 0, 10, 10], [100, 100, 50, 50]]})
    truth["annotations"][1]["iscrowd"] = 1
    assert metrics_of(truth, [proposals(1, [[0, 0, 10, 10]])])["proposal_ar100"] == 100.0
