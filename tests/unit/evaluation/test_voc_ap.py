"""Pascal VOC's average precision: by hand, and against one detection after the other as the paper puts it."""

from typing import Any

import numpy as np
import pytest

from detcore.config import EvaluationConfig
from detcore.evaluation import Evaluation, Evaluator, GroundTruth, ImageDetections


def truth_of(*objects: tuple[float, ...], images: int = 1, difficult: tuple[int, ...] = ()) -> dict[str, Any]:
    """Objects of (image, class, x, y, w, h)."""
    return {
        "images": [{"id": i, "height": 100, "width": 100} for i in range(1, images + 1)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": n, "image_id": int(o[0]), "category_id": int(o[1]), "bbox": list(o[2:]), "area": o[4] * o[5],
             "iscrowd": int(n in difficult)}
            for n, o in enumerate(objects)
        ],
    }  # fmt: skip


def evaluated(truth: dict[str, Any], found: list[ImageDetections], protocol: str) -> Evaluation:
    settings = EvaluationConfig(protocol=protocol)
    evaluator = Evaluator(GroundTruth(coco=truth), settings=settings, operating_points=True)
    for image in found:
        evaluator.add_image(image)
    return evaluator.compute()


def image_of(*detections: tuple[float, ...], image_id: int = 1, label: int = 0) -> ImageDetections:
    """Detections of (score, x1, y1, x2, y2)."""
    table = np.array(detections, dtype=np.float64).reshape(-1, 5)
    return ImageDetections(
        image_id=image_id, boxes_xyxy=table[:, 1:], scores=table[:, 0], labels=np.full(len(table), label, np.int64)
    )


# Two objects; falling scores: true, false (nothing there), true. Precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
TWO = truth_of((1, 1, 0, 0, 10, 10), (1, 1, 50, 50, 10, 10))
TRUE_FALSE_TRUE = image_of((0.9, 0, 0, 10, 10), (0.8, 80, 80, 90, 90), (0.7, 50, 50, 60, 60))


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        ("voc2007", (6 * 1 + 5 * 2 / 3) / 11),  # precision 1 at recalls 0 to 0.5, 2/3 at 0.6 to 1
        ("voc2010", 1 / 2 * 1 + 1 / 2 * 2 / 3),
    ],
)
def test_average_precision_by_hand(protocol: str, expected: float) -> None:
    evaluation = evaluated(TWO, [TRUE_FALSE_TRUE], protocol)
    assert evaluation.metrics["box_ap50"] == pytest.approx(100 * expected, abs=1e-9)
    assert (
        evaluation.metrics["box_ap"] == evaluation.metrics["box_ap75"] == evaluation.metrics["box_ap50"]
    )  # exact hits
    assert evaluation.metrics["box_ar"] == evaluation.metrics["box_ar50"] == 100
    assert evaluation.per_class.keys() == {"a"}  # b has no object
    assert evaluation.curves["box"].by_class["a"][[0, 50, 51, 100]] == pytest.approx([1, 1, 2 / 3, 2 / 3])


def test_best_f1_by_hand() -> None:
    table = evaluated(TWO, [TRUE_FALSE_TRUE], "voc2010").per_class["a"]
    # F1 after each: 2 * 1 * .5 / 1.5 = 2/3, 1/2, 2 * 2/3 * 1 / (5/3) = 0.8.
    names = ("box_f1", "box_f1_precision", "box_f1_recall", "box_f1_score")
    assert [table[name] for name in names] == pytest.approx([80, 100 * 2 / 3, 100, 0.7])


def test_three_tenths_are_reached_by_three_of_ten() -> None:
    truth = truth_of(*[(1, 1, 10 * n, 0, 8, 8) for n in range(10)])
    found = image_of(*[(0.9, 10 * n, 0, 10 * n + 8, 8) for n in range(3)])
    assert evaluated(truth, [found], "voc2007").metrics["box_ap50"] == pytest.approx(100 * 4 / 11)  # 0, .1, .2 and .3


def test_half_is_enough_and_a_second_detection_is_false() -> None:
    truth = truth_of((1, 1, 0, 0, 10, 10))
    half = image_of((0.9, 0, 0, 10, 5))  # IoU 1/2 exactly
    assert evaluated(truth, [half], "voc2010").metrics["box_ap50"] == 100
    twice = image_of((0.9, 80, 80, 90, 90), (0.8, 0, 0, 10, 10), (0.7, 0, 0, 10, 9))
    assert evaluated(truth, [twice], "voc2010").per_class["a"]["box_f1_precision"] == pytest.approx(50)


def test_a_taken_object_is_not_left_for_the_next_best() -> None:
    # Unlike COCO's: the second detection overlaps the taken object more than the free one, so it is false.
    truth = truth_of((1, 1, 0, 0, 10, 10), (1, 1, 0, 3, 10, 10))
    found = image_of((0.9, 0, 0, 10, 10), (0.8, 0, 1, 10, 11))
    assert evaluated(truth, [found], "voc2010").metrics["box_ar50"] == pytest.approx(50)
    assert evaluated(truth, [found], "coco").per_class["a"]["box_f1_recall"] == pytest.approx(100)


def test_difficult_objects_do_not_count() -> None:
    truth = truth_of((1, 1, 0, 0, 10, 10), (1, 1, 50, 50, 10, 10), difficult=(1,))
    found = image_of((0.9, 50, 50, 60, 60), (0.8, 50, 50, 60, 59), (0.7, 0, 0, 10, 10))
    assert evaluated(truth, [found], "voc2010").metrics["box_ap50"] == pytest.approx(100)


def test_nothing_found_is_zero() -> None:
    table = evaluated(TWO, [image_of()], "voc2007")
    assert table.metrics["box_ap"] == table.metrics["box_ap50"] == table.metrics["box_ar"] == 0
    assert table.per_class["a"]["box_f1"] == 0 and table.per_class["a"]["box_f1_score"] == 1


def one_after_the_other(
    truth: dict[str, Any], found: list[ImageDetections], label: int, threshold: float, *, eleven: bool
) -> float:
    """As the paper says it, in loops."""
    rows = sorted(
        ((score, image.image_id, box) for image in found
         for score, box, own in zip(image.scores, image.boxes_xyxy, image.labels, strict=True) if own == label),
        key=lambda row: -row[0],
    )  # fmt: skip
    objects = [a for a in truth["annotations"] if a["category_id"] == label + 1]
    taken: set[int] = set()
    true, false, points = 0, 0, []
    total = sum(not a["iscrowd"] for a in objects)
    for _, image_id, (x1, y1, x2, y2) in rows:
        best, most = None, 0.0
        for candidate in objects:
            x, y, w, h = candidate["bbox"]
            wide, high = min(x2, x + w) - max(x1, x), min(y2, y + h) - max(y1, y)
            if candidate["image_id"] == image_id and wide > 0 and high > 0:
                overlap = wide * high / ((x2 - x1) * (y2 - y1) + w * h - wide * high)
                if overlap > most:
                    best, most = candidate, overlap
        if best is not None and most >= threshold:
            if best["iscrowd"]:
                continue
            true, false = (true + 1, false) if best["id"] not in taken else (true, false + 1)
            taken.add(best["id"])
        else:
            false += 1
        points.append((true / total, true / (true + false)))
    if eleven:
        return sum(max((p for r, p in points if r >= n / 10), default=0.0) for n in range(11)) / 11
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(points):
        area += (recall - before) * max(p for _, p in points[place:])
        before = recall
    return area


@pytest.mark.parametrize("protocol", ["voc2007", "voc2010"])
def test_equals_one_detection_after_the_other(
    protocol: str, truth: dict[str, Any], found: list[ImageDetections]
) -> None:
    # Of equal scores any may come first; so that both do it in one order, scores differ.
    rng = np.random.default_rng(3)
    found = [
        ImageDetections(
            image_id=image.image_id, boxes_xyxy=image.boxes_xyxy, scores=rng.random(len(image.scores)),
            labels=image.labels,
        )
        for image in found
    ]  # fmt: skip
    evaluation = evaluated(truth, found, protocol)
    assert 20 < evaluation.metrics["box_ap"] < 80
    for label, name in enumerate(("one", "two", "three")):
        at = [one_after_the_other(truth, found, label, t, eleven=protocol == "voc2007") for t in (0.5, 0.75)]
        own = [evaluation.per_class[name][key] for key in ("box_ap50", "box_ap75")]
        assert own == pytest.approx([100 * value for value in at], abs=1e-9)


def rotated_scene(angle: float, *, difficult: bool = False) -> tuple[dict[str, Any], ImageDetections]:
    """Two objects of 20 x 8, turned; the detections are TRUE_FALSE_TRUE's, and lie exactly where objects are."""
    places = [[20.0, 20, 20, 8, angle], [70.0, 70, 20, 8, -angle]]
    truth = truth_of((1, 1, 0, 0, 10, 10), (1, 1, 50, 50, 10, 10), difficult=(0,) if difficult else ())
    for annotation, box in zip(truth["annotations"], places, strict=True):
        annotation["bbox_rotated"] = box
    return truth, ImageDetections(
        image_id=1,
        boxes_xyxy=TRUE_FALSE_TRUE.boxes_xyxy,
        scores=TRUE_FALSE_TRUE.scores,
        labels=TRUE_FALSE_TRUE.labels,
        boxes_xywha=np.array([places[0], [50, 20, 20, 8, 0], places[1]]),
    )


def evaluated_rotated(truth: dict[str, Any], found: ImageDetections, protocol: str) -> Evaluation:
    settings = EvaluationConfig(protocol=protocol)
    evaluator = Evaluator(GroundTruth(coco=truth), predicts=("rotated",), settings=settings, operating_points=True)
    evaluator.add_image(found)
    return evaluator.compute()


@pytest.mark.parametrize(
    ("protocol", "expected"), [("voc2007", (6 * 1 + 5 * 2 / 3) / 11), ("voc2010", 1 / 2 * 1 + 1 / 2 * 2 / 3)]
)
def test_rotated_boxes_by_dotas_rules(protocol: str, expected: float) -> None:
    metrics = evaluated_rotated(*rotated_scene(40), protocol).metrics
    assert metrics["rotated_ap50"] == pytest.approx(100 * expected, abs=1e-9)
    assert metrics.keys() == {f"rotated_{name}" for name in ("ap", "ap50", "ap75", "ar", "ar50")}
    # A difficult object is neither found nor missed: false, true, of one.
    spared = evaluated_rotated(*rotated_scene(40, difficult=True), "voc2010").metrics
    assert spared["rotated_ap50"] == pytest.approx(50)


def test_the_angle_decides_by_dotas_rules() -> None:
    truth, found = rotated_scene(40)
    upright = ImageDetections(
        image_id=1,
        boxes_xyxy=found.boxes_xyxy,
        scores=found.scores,
        labels=found.labels,
        boxes_xywha=found.boxes_xywha * (1, 1, 1, 1, 0),  # type: ignore[operator]
    )
    assert evaluated_rotated(truth, upright, "voc2010").metrics["rotated_ap50"] == 0


@pytest.mark.parametrize("protocol", ["voc2007", "voc2010"])
def test_rotated_boxes_of_no_angle_are_upright_ones(
    truth: dict[str, Any], found: list[ImageDetections], protocol: str
) -> None:
    expected = evaluated(truth, found, protocol)
    for annotation in truth["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox_rotated"] = [x + width / 2, y + height / 2, width, height, 0.0]
    evaluator = Evaluator(
        GroundTruth(coco=truth),
        predicts=("rotated",),
        settings=EvaluationConfig(protocol=protocol),
        operating_points=True,
    )
    for image in found:
        size = image.boxes_xyxy[:, 2:] - image.boxes_xyxy[:, :2]
        turned = np.concatenate((image.boxes_xyxy[:, :2] + size / 2, size, np.zeros((len(size), 1))), axis=1)
        evaluator.add_image(
            ImageDetections(
                image_id=image.image_id,
                boxes_xyxy=image.boxes_xyxy,
                scores=image.scores,
                labels=image.labels,
                boxes_xywha=turned,
            )
        )
    assert evaluator.compute().metrics == pytest.approx(
        {name.replace("box_", "rotated_"): value for name, value in expected.metrics.items()}, abs=1e-9
    )
