"""LVIS's and Open Images' average precision: what was not looked for does not count."""

import copy
from typing import Any

import numpy as np
import pytest

from detcore.config import EvaluationConfig
from detcore.evaluation import Evaluation, Evaluator, GroundTruth, ImageDetections, coco

# By lvis 0.5.3 (LVISEval on LVISResults, np.float restored) of `federated` and `surplus`, in percent.
BY_LVIS: dict[str, dict[str, float]] = {
    "box": {
        "ap": 32.86357619864214,
        "ap50": 49.95230744141963,
        "ap75": 38.1814299376907,
        "ap_small": 25.093006093400316,
        "ap_medium": 39.912898184342374,
        "ap_rare": 11.365866929308407,
        "ap_common": 27.217439871806963,
        "ap_frequent": 60.00742179481106,
        "ar300": 65.44843863471314,
    },
    "mask": {
        "ap": 32.20370739941838,
        "ap50": 50.212541175833934,
        "ap75": 36.93082008915558,
        "ap_small": 23.807869788131462,
        "ap_medium": 39.77380703994375,
        "ap_rare": 11.542337107574383,
        "ap_common": 26.910777609423054,
        "ap_frequent": 58.15800748125769,
        "ar300": 65.77342047930284,
    },
}
NAMES = {
    "AP": "ap", "AP50": "ap50", "AP75": "ap75", "APs": "ap_small", "APm": "ap_medium",
    "APr": "ap_rare", "APc": "ap_common", "APf": "ap_frequent", "AR@300": "ar300",
}  # fmt: skip


@pytest.fixture
def federated(truth: dict[str, Any]) -> dict[str, Any]:
    """Every image says of a class at random that it is not there, or more often than annotated. No crowd regions."""
    rng = np.random.default_rng(11)
    for annotation in truth["annotations"]:
        annotation["iscrowd"] = 0
    for image in truth["images"]:
        there = {a["category_id"] for a in truth["annotations"] if a["image_id"] == image["id"]}
        image["neg_category_ids"] = [c for c in (1, 2, 3, 4) if c not in there and rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [c for c in sorted(there) if rng.random() < 0.3]
    for category, frequency in zip(truth["categories"], "rcff", strict=True):
        category |= {"frequency": frequency, "synset": category["name"]}
    return truth


@pytest.fixture
def surplus(found: list[ImageDetections]) -> list[ImageDetections]:
    """Scores that differ, and over 300 detections in the first image, of which the last do not count."""
    rng = np.random.default_rng(12)
    first = found[0]
    many = np.tile(np.arange(len(first.scores)), 1 + 330 // len(first.scores))
    rows = [many, *(np.arange(len(image.scores)) for image in found[1:])]
    return [
        ImageDetections(
            image_id=image.image_id,
            boxes_xyxy=image.boxes_xyxy[own],
            scores=rng.random(len(own)),
            labels=image.labels[own],
            rles=tuple((image.rles or ())[row] for row in own),
        )
        for image, own in zip(found, rows, strict=True)
    ]


def evaluated(
    truth: dict[str, Any], found: list[ImageDetections], protocol: str, predicts: tuple[str, ...] = ("boxes",)
) -> Evaluation:
    settings = EvaluationConfig(protocol=protocol)
    evaluator = Evaluator(GroundTruth(coco=truth), predicts=predicts, settings=settings, operating_points=True)
    for image in found:
        evaluator.add_image(image)
    return evaluator.compute()


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_lvis_equals_its_published_code(kind: str, federated: dict[str, Any], surplus: list[ImageDetections]) -> None:
    evaluation = evaluated(federated, surplus, "lvis", ("boxes", "masks"))
    own = {name: value for name, value in evaluation.metrics.items() if name.startswith(f"{kind}_")}
    assert own == pytest.approx({f"{kind}_{name}": value for name, value in BY_LVIS[kind].items()}, abs=1e-9)


@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_lvis_equals_the_lvis_package(
    iou_type: str, federated: dict[str, Any], surplus: list[ImageDetections], monkeypatch: pytest.MonkeyPatch
) -> None:
    lvis = pytest.importorskip("lvis", reason="pip install --no-deps lvis opencv-python-headless")
    monkeypatch.setattr(np, "float", float, raising=False)  # gone since it was last released
    prefix = {"bbox": "box", "segm": "mask"}[iou_type]
    ours = evaluated(federated, surplus, "lvis", ("boxes", "masks")).metrics
    truth = lvis.LVIS.__new__(lvis.LVIS)
    truth.logger = lvis.lvis.logging.getLogger("lvis")
    truth.dataset = copy.deepcopy(federated)
    truth._create_index()
    key, column = ("bbox", "boxes_xyxy") if iou_type == "bbox" else ("segmentation", "rles")
    rows = [
        {
            "image_id": image.image_id,
            "category_id": int(label) + 1,
            "score": float(score),
            key: [*place[:2], *(place[2:] - place[:2])] if key == "bbox" else {"size": [96, 128], "counts": place},
        }
        for image in surplus
        for label, score, place in zip(image.labels, image.scores, getattr(image, column), strict=True)
    ]
    theirs = lvis.LVISEval(truth, lvis.LVISResults(truth, rows), iou_type)
    theirs.run()
    for name, own in NAMES.items():
        assert ours[f"{prefix}_{own}"] == pytest.approx(100 * theirs.results[name], abs=1e-9), name


def test_without_frequencies_there_are_no_groups(federated: dict[str, Any], surplus: list[ImageDetections]) -> None:
    for category in federated["categories"]:
        del category["frequency"]
    evaluation = evaluated(federated, surplus, "lvis")
    assert "box_ap" in evaluation.metrics and not any("rare" in name for name in evaluation.metrics)


def test_lvis_needs_federated_data(truth: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"protocol = lvis, but image 10 .* \(neg_category_ids\).*data=lvis"):
        Evaluator(GroundTruth(coco=truth), settings=EvaluationConfig(protocol="lvis"))


@pytest.mark.parametrize("protocol", ["lvis", "open_images"])
def test_without_hotcoco_it_says_so(
    protocol: str, federated: dict[str, Any], found: list[ImageDetections], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coco, "hotcoco", None)
    with pytest.raises(ValueError, match=f"protocol = {protocol} needs hotcoco: pip install hotcoco"):
        evaluated(federated, found, protocol)


def group_scene(**image: Any) -> tuple[dict[str, Any], list[ImageDetections]]:
    """A group at the left, an object below right; detections: two in the group, the object, and one of nothing."""
    boxes = {1: ([0, 0, 50, 50], 1), 2: ([60, 60, 20, 20], 0)}
    truth = {
        "images": [{"id": 1, "height": 100, "width": 100, **image}],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": [
            {"id": key, "image_id": 1, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": group}
            for key, (box, group) in boxes.items()
        ],
    }
    found = ImageDetections(
        image_id=1,
        boxes_xyxy=np.array([[0, 0, 10, 10], [20, 20, 30, 30], [80, 0, 90, 10], [60, 60, 80, 80]], np.float64),
        scores=np.array([0.9, 0.8, 0.7, 0.6]),
        labels=np.zeros(4, np.int64),
    )
    return truth, [found]


def test_a_group_is_one_object_however_many_are_found_in_it() -> None:
    evaluation = evaluated(*group_scene(), "open_images")
    # Counted: true (the best in the group), false, true, of 2 objects.
    assert evaluation.metrics == pytest.approx({"box_ap50": 100 * (1 / 2 + 1 / 2 * 2 / 3), "box_ar50": 100})
    table = evaluation.per_class["a"]
    assert [table["box_f1"], table["box_f1_score"]] == pytest.approx([80, 0.6])


def test_supercategories_are_no_hierarchy() -> None:
    truth, found = group_scene()
    expected = evaluated(truth, found, "open_images")
    for category in truth["categories"]:
        category["supercategory"] = "thing"
    own = evaluated(truth, found, "open_images")
    assert (own.metrics, own.per_class) == (expected.metrics, expected.per_class)


def test_open_images_counts_only_what_was_looked_for() -> None:
    truth, found = group_scene(neg_category_ids=[], not_exhaustive_category_ids=[])
    other = {**truth, "images": [*truth["images"], {**truth["images"][0], "id": 2}]}
    elsewhere = ImageDetections(
        image_id=2, boxes_xyxy=np.array([[0.0, 0, 10, 10]]), scores=np.array([0.95]), labels=np.zeros(1, np.int64)
    )
    expected = evaluated(truth, found, "open_images").metrics
    assert evaluated(other, [*found, elsewhere], "open_images").metrics == expected  # nobody looked for a in image 2
    other["images"][1] = {**other["images"][1], "neg_category_ids": [1]}
    # Now it is false, and the best-scored: precision 1/2 and 2/4 at recall 1/2 and 1.
    assert evaluated(other, [*found, elsewhere], "open_images").metrics["box_ap50"] == pytest.approx(50)


@pytest.mark.parametrize("kind", ["boxes", "masks"])
def test_both_backends_judge_alike(
    kind: str, truth: dict[str, Any], found: list[ImageDetections], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = evaluated(truth, found, "coco", (kind,)).per_class
    monkeypatch.setattr(coco, "hotcoco", None)
    own = evaluated(truth, found, "coco", (kind,)).per_class
    assert own.keys() == expected.keys() == {"one", "two", "three"}
    for name, table in expected.items():
        assert table[f"{'box' if kind == 'boxes' else 'mask'}_f1"] > 20
        assert own[name] == pytest.approx(table, abs=1e-9)
