"""Random ground truth and detections, with crowds and masks, for comparing evaluators."""

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from detcore.evaluation import ImageDetections
from detcore.evaluation.results import Results

HEIGHT, WIDTH = 96, 128
CLASSES = ("one", "two", "three", "never")


def box_rle(box: np.ndarray) -> dict[str, Any]:
    x1, y1, x2, y2 = np.round(box).astype(int)
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
    mask[y1:y2, x1:x2] = 1
    return coco_mask.encode(mask)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    low = rng.uniform(0, (WIDTH - 20, HEIGHT - 20), (count, 2))
    size = rng.uniform(4, 100, (count, 2))
    return np.concatenate((low, np.minimum(low + size, (WIDTH, HEIGHT))), axis=1)


def random_truth(rng: np.random.Generator, images: int) -> dict[str, Any]:
    """The class 'never' has no object. About one object in six is a crowd."""
    annotations = []
    for image in range(images):
        for box in random_boxes(rng, int(rng.integers(0, 8))):
            rle = box_rle(box)
            annotations.append(
                {
                    "id": 100 + len(annotations),
                    "image_id": 10 + 3 * image,
                    "category_id": int(rng.integers(1, 4)),
                    "bbox": [*box[:2], *(box[2:] - box[:2])],
                    "area": float(coco_mask.area(rle)),
                    "iscrowd": int(rng.random() < 1 / 6),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
    return {
        "images": [{"id": 10 + 3 * i, "height": HEIGHT, "width": WIDTH} for i in range(images)],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
        "annotations": annotations,
    }


def random_detections(rng: np.random.Generator, truth: dict[str, Any]) -> list[ImageDetections]:
    """Shifted objects among noise; scores in steps of 0.05, so that many are equal."""
    found = []
    for image in truth["images"]:
        objects = [a for a in truth["annotations"] if a["image_id"] == image["id"]]
        noise = int(rng.integers(0, 6))
        boxes = np.array([[*a["bbox"][:2], a["bbox"][0] + a["bbox"][2], a["bbox"][1] + a["bbox"][3]] for a in objects])
        boxes = np.concatenate((boxes.reshape(-1, 4) + rng.normal(0, 2, (len(objects), 4)), random_boxes(rng, noise)))
        boxes = boxes.clip(0, (WIDTH, HEIGHT, WIDTH, HEIGHT))
        labels = [a["category_id"] - 1 if rng.random() < 0.9 else 3 for a in objects] + [0] * noise
        found.append(
            ImageDetections(
                image_id=image["id"],
                boxes_xyxy=boxes,
                scores=rng.integers(1, 20, len(boxes)) / 20,
                labels=np.array(labels, dtype=np.int64),
                rles=tuple(box_rle(box)["counts"] for box in boxes),
            )
        )
    return found


@pytest.fixture
def truth() -> dict[str, Any]:
    return random_truth(np.random.default_rng(7), images=30)


@pytest.fixture
def found(truth: dict[str, Any]) -> list[ImageDetections]:
    return random_detections(np.random.default_rng(8), truth)


@pytest.fixture
def results(truth: dict[str, Any], found: list[ImageDetections]) -> Results:
    return Results(
        image_ids=np.concatenate([np.full(len(image.scores), image.image_id) for image in found]),
        category_ids=np.concatenate([image.labels + 1 for image in found]),
        boxes_xyxy=np.concatenate([image.boxes_xyxy for image in found]),
        scores=np.concatenate([image.scores for image in found]),
        sizes=np.tile((96, 128), (sum(len(image.scores) for image in found), 1)),
        rles=[rle for image in found for rle in image.rles or ()],
    )
