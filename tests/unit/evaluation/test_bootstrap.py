"""The paired bootstrap, and detections as files."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detcore.evaluation import Results
from detcore.evaluation.bootstrap import bootstrap_differences
from detcore.evaluation.coco import LoadedTruth, accumulate
from detcore.evaluation.metrics import average_precision
from detcore.evaluation.stored import read_results, read_truth, results_bytes, truth_bytes

IMAGES, BOXES = 40, 4


def truth_of(seed: int = 0) -> dict[str, Any]:
    """40 images of 4 boxes of two classes."""
    random = np.random.default_rng(seed)
    annotations = []
    for number in range(IMAGES * BOXES):
        x, y, width, height = (*random.uniform(0, 150, 2), *random.uniform(20, 40, 2))
        annotations.append(
            {
                "id": number + 1,
                "image_id": number // BOXES + 1,
                "category_id": number % 2 + 1,
                "bbox": [x, y, width, height],
                "area": width * height,
                "iscrowd": 0,
            }
        )
    images = [{"id": number + 1, "height": 200, "width": 200} for number in range(IMAGES)]
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }


def found_in(truth: dict[str, Any], *, off_by: float, seed: int) -> Results:
    """Each box, displaced by noise of so many pixels."""
    random = np.random.default_rng(seed)
    boxes = np.array([a["bbox"] for a in truth["annotations"]])
    corners = np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)
    return Results(
        image_ids=np.array([a["image_id"] for a in truth["annotations"]]),
        category_ids=np.array([a["category_id"] for a in truth["annotations"]]),
        boxes_xyxy=corners + random.normal(0, off_by, (len(corners), 4)),
        scores=random.uniform(0.2, 1.0, len(corners)),
        sizes=np.full((len(corners), 2), 200),
    )


def box_ap(truth: dict[str, Any], results: Results) -> float:
    arrays = accumulate(LoadedTruth(truth), results, "bbox")
    return average_precision(arrays, ["a", "b"], prefix="box", recall="ar100").metrics["box_ap"]


def drawn(truth: dict[str, Any], results: Results, images: list[int]) -> tuple[dict[str, Any], Results]:
    """Truth and detections of images drawn with replacement, each draw an image of its own."""
    annotations, rows, image_ids = [], [], []
    for number, image in enumerate(images, start=1):
        annotations += [{**a, "image_id": number} for a in truth["annotations"] if a["image_id"] == image]
        own = np.flatnonzero(results.image_ids == image)
        rows += own.tolist()
        image_ids += [number] * len(own)
    images_drawn = [{"id": number + 1, "height": 200, "width": 200} for number in range(len(images))]
    numbered = [{**a, "id": number} for number, a in enumerate(annotations, start=1)]
    return {**truth, "images": images_drawn, "annotations": numbered}, Results(
        image_ids=np.array(image_ids),
        **{name: getattr(results, name)[rows] for name in ("category_ids", "boxes_xyxy", "scores", "sizes")},
    )


def test_the_interval_is_that_of_a_bootstrap_by_hand() -> None:
    truth = truth_of()
    first, second = found_in(truth, off_by=2.0, seed=1), found_in(truth, off_by=3.0, seed=2)
    found = bootstrap_differences(LoadedTruth(truth), first, second, "box", num_resamples=400)
    difference = found.metrics["box_ap"]
    assert (difference.first, difference.second) == pytest.approx((box_ap(truth, first), box_ap(truth, second)))
    assert (found.num_images, found.num_resamples) == (IMAGES, 400)

    random, deltas = np.random.default_rng(3), []
    for _ in range(200):
        images = random.integers(1, IMAGES + 1, IMAGES).tolist()
        deltas.append(box_ap(*drawn(truth, second, images)) - box_ap(*drawn(truth, first, images)))
    low, high = np.percentile(deltas, (2.5, 97.5))
    # Percentiles of 200 and 400 draws differ by about a tenth of the interval.
    assert abs(difference.low - low) < 0.25 * (high - low)
    assert abs(difference.high - high) < 0.25 * (high - low)
    assert difference.certain == (high < 0)


def test_a_model_does_not_differ_from_itself() -> None:
    truth = truth_of()
    same = found_in(truth, off_by=2.0, seed=1)
    found = bootstrap_differences(LoadedTruth(truth), same, same, "box", num_resamples=50)
    assert all((d.delta, d.low, d.high, d.certain) == (0.0, 0.0, 0.0, False) for d in found.metrics.values())
    assert all(first == second for first, second in found.per_class.values())
    assert "box_ap_large" not in found.metrics, "there is no large object"


def test_what_has_no_bootstrap_is_refused() -> None:
    truth = truth_of()
    same = found_in(truth, off_by=2.0, seed=1)
    with pytest.raises(ValueError, match="no bootstrap of 'rotated', only of box, mask, keypoint"):
        bootstrap_differences(LoadedTruth(truth), same, same, "rotated")


def test_detections_come_back_as_they_were(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    results = Results(
        image_ids=np.array([1, 1, 2]),
        category_ids=np.array([1, 2, 1]),
        boxes_xyxy=random.random((3, 4)),
        scores=random.random(3),
        sizes=np.array([[4, 5], [4, 5], [6, 7]]),
        rles=[b"abc", b"", b"de"],
        keypoints=random.random((3, 2, 3)),
        boxes_xywha=random.random((3, 5)),
    )
    file = tmp_path / "detections.safetensors"
    file.write_bytes(results_bytes(results))
    again = read_results(file)
    assert again.rows() == results.rows()
    assert again.rles == results.rles
    none = results.where(np.zeros(3, dtype=bool))
    file.write_bytes(results_bytes(none))
    assert read_results(file).rows() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": np.zeros(2)}, "has the shape"),
        ({"boxes_xyxy": np.zeros((3, 5))}, "boxes_xyxy has the shape"),
        ({"sizes": np.zeros((2, 2), np.int64)}, "sizes has the shape"),
        ({"rles": [b"a"]}, "masks in"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    columns: dict[str, Any] = {
        "image_ids": np.ones(3, np.int64),
        "category_ids": np.ones(3, np.int64),
        "boxes_xyxy": np.zeros((3, 4)),
        "scores": np.zeros(3),
        "sizes": np.ones((3, 2), np.int64),
    }
    file = tmp_path / "detections.safetensors"
    file.write_bytes(results_bytes(Results(**{**columns, **change})))
    with pytest.raises(ValueError, match=said):
        read_results(file)


def test_truth_comes_back_and_its_file_is_reproducible(tmp_path: Path) -> None:
    truth = truth_of()
    file = tmp_path / "truth.json.gz"
    file.write_bytes(truth_bytes(truth))
    assert read_truth(file) == truth
    assert truth_bytes(truth_of()) == file.read_bytes()


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"[]"), gzip.compress(b"{")], ids=["raw", "list", "cut"])
def test_a_truth_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "truth.json.gz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"truth\.json\.gz: "):
        read_truth(file)
    plain = tmp_path / "truth.json"
    plain.write_text(json.dumps({"images": []}))
    with pytest.raises(ValueError, match="it needs images, annotations and categories"):
        read_truth(plain)
