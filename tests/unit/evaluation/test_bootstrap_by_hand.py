"""How sure a difference of two models is, by hand; and the truth as a file."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detcore.evaluation import GroundTruth, Results
from detcore.evaluation.bootstrap import interval, mean, resampled
from detcore.evaluation.coco import LoadedTruth, accumulate
from detcore.evaluation.diagnosis import Diagnosis
from detcore.evaluation.metrics import average_precision
from detcore.evaluation.truth_file import load_truth, save_truth

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


def test_the_interval_of_a_difference_is_that_of_a_bootstrap_by_hand() -> None:
    truth = truth_of()
    first, second = found_in(truth, off_by=2.0, seed=1), found_in(truth, off_by=3.0, seed=2)
    pair = [resampled(Diagnosis(GroundTruth(coco=truth), found), sets=400) for found in (first, second)]
    change = interval(mean(pair[1].ap) - mean(pair[0].ap))
    assert change.value == pytest.approx(box_ap(truth, second) - box_ap(truth, first))

    random, deltas = np.random.default_rng(3), []
    for _ in range(200):
        images = random.integers(1, IMAGES + 1, IMAGES).tolist()
        deltas.append(box_ap(*drawn(truth, second, images)) - box_ap(*drawn(truth, first, images)))
    low, high = change.value + np.percentile(deltas, (2.5, 97.5)) - np.mean(deltas)
    # Percentiles of 200 and 400 draws differ by about a tenth of the interval.
    assert abs(change.low - low) < 0.25 * (high - low)
    assert abs(change.high - high) < 0.25 * (high - low)


def test_truth_comes_back_and_its_file_is_reproducible(tmp_path: Path) -> None:
    truth = GroundTruth(coco=truth_of())
    first, second = tmp_path / "truth.json.gz", tmp_path / "again.json.gz"
    save_truth(truth, first)
    save_truth(GroundTruth(coco=truth_of()), second)
    assert load_truth(first).coco == truth.coco
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "content",
    [
        b"no gzip",
        gzip.compress(b"[]"),
        gzip.compress(b"{"),
        gzip.compress(b'{"images": []}'),
        gzip.compress(b"{}")[:-9],
    ],
    ids=["raw", "list", "no JSON", "no annotations", "cut"],
)
def test_a_truth_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "truth.json.gz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"truth\.json\.gz: no ground truth that detcore wrote"):
        load_truth(file)
