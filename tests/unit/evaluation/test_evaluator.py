import pickle
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from detcore.evaluation import Evaluator, GroundTruth, ImageDetections
from detcore.structures.batch import Batch, Detections

TRUTH = {
    "images": [{"id": 40, "height": 100, "width": 200}, {"id": 7, "height": 60, "width": 80}],
    "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    "annotations": [
        {
            "id": 1,
            "image_id": 40,
            "category_id": 2,
            "bbox": [20, 10, 60, 40],
            "area": 2400,
            "iscrowd": 0,
            "segmentation": [[20, 10, 80, 10, 80, 50, 20, 50]],
        }
    ],
}


BOTH = ("boxes", "masks")


def instances_of(evaluator: Evaluator) -> list[ImageDetections]:
    _, (instances, *_) = evaluator.state()
    return instances


def batch_of(samples: list[int], geometry: list[list[list[float]]], sizes: list[tuple[int, int]]) -> Batch:
    rows = len(samples)
    return Batch(
        images=torch.zeros(rows, 3, 64, 128),
        image_sizes=torch.tensor([[64, 128]]).expand(rows, 2),
        sample_ids=torch.tensor(samples),
        real=torch.tensor(samples) >= 0,
        original_sizes=torch.tensor(sizes),
        geometry=torch.tensor(geometry),
        rng_key=torch.zeros(2, dtype=torch.int64),
    )


def detections_of(boxes: list[list[list[float]]], valid: list[list[bool]], masks: bool = False) -> Detections:
    tensor = torch.tensor(boxes)
    rows, count = tensor.shape[:2]
    return Detections(
        boxes_xyxy=tensor,
        scores=torch.linspace(0.9, 0.5, count).expand(rows, count),
        labels=torch.ones(rows, count, dtype=torch.int64),
        valid=torch.tensor(valid),
        masks=torch.ones(rows, count, 28, 28) if masks else None,
    )


HALF = [[0.5, 0.0, 0.0], [0.0, 0.25, 0.0], [0.0, 0.0, 1.0]]
FLIPPED = [[-1.0, 0.0, 80.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]  # x -> 80 - x
EMPTY = [[0.0] * 3] * 3


def test_boxes_return_to_the_raw_image_and_what_vanishes_is_dropped() -> None:
    evaluator = Evaluator(GroundTruth(coco=TRUTH))
    batch = batch_of([0, 1, -1], [HALF, FLIPPED, EMPTY], [(100, 200), (60, 80), (0, 0)])
    boxes = [
        [[10.0, 2.5, 40.0, 12.5], [90.0, 0.0, 120.0, 30.0], [110.0, 5.0, 120.0, 10.0]],
        [[10.0, 5.0, 30.0, 25.0], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]],
        [[0.0, 0.0, 1.0, 1.0]] * 3,
    ]
    evaluator.add(batch, detections_of(boxes, [[True] * 3, [True, False, False], [True] * 3]))
    wide, flipped = instances_of(evaluator)
    assert (wide.image_id, flipped.image_id) == (40, 7)  # the empty row left nothing
    # x * 2, y * 4; the second is clipped at 200 x 100, the third lies right of the image.
    np.testing.assert_allclose(wide.boxes_xyxy, [[20, 10, 80, 50], [180, 0, 200, 100]])
    np.testing.assert_allclose(wide.scores, [0.9, 0.7], atol=1e-7)
    np.testing.assert_allclose(flipped.boxes_xyxy, [[50, 5, 70, 25]])
    # The miss on image 7 has the same score as the hit, and comes first by image id: precision 1/2 at every recall.
    assert evaluator.compute().metrics["box_ap"] == pytest.approx(50.0)
    assert evaluator.compute().detections[-1] == {
        "image_id": 40,
        "category_id": 2,
        "bbox": [180.0, 0.0, 20.0, 100.0],
        "score": pytest.approx(0.7),
    }


def test_masks_are_pasted_on_the_raw_image() -> None:
    evaluator = Evaluator(GroundTruth(coco=TRUTH), predicts=BOTH)
    batch = batch_of([0, 1], [HALF, FLIPPED], [(100, 200), (60, 80)])
    boxes = [[[10.0, 2.5, 40.0, 12.5], [0.0, 0.0, 10.0, 10.0]], [[0.0, 0.0, 1.0, 1.0]] * 2]
    evaluator.add(batch, detections_of(boxes, [[True, True], [False, False]], masks=True))
    result = evaluator.compute()
    first = coco_mask.decode(result.detections[0]["segmentation"])
    expected = np.zeros((100, 200), dtype=np.uint8)
    expected[10:50, 20:80] = 1
    np.testing.assert_array_equal(first, expected)
    assert result.metrics["mask_ap"] == pytest.approx(100.0)
    assert result.per_class["b"]["mask_ap"] == pytest.approx(100.0)
    assert set(result.curves) == {"box", "mask"}


def outcome(truth: dict[str, Any], parts: list[list[ImageDetections]]) -> Any:
    """Each part on an evaluator of its own, carried over as bytes and merged in the first."""
    evaluators = [Evaluator(GroundTruth(coco=truth), predicts=BOTH) for _ in parts]
    for evaluator, part in zip(evaluators, parts, strict=True):
        for image in part:
            evaluator.add_image(image)
    evaluators[0].merge([pickle.loads(pickle.dumps(evaluator.state())) for evaluator in evaluators])
    return evaluators[0].compute()


def shuffled(image: ImageDetections, rng: np.random.Generator) -> ImageDetections:
    order = rng.permutation(len(image.scores))
    return ImageDetections(
        image_id=image.image_id,
        boxes_xyxy=image.boxes_xyxy[order],
        scores=image.scores[order],
        labels=image.labels[order],
        rles=tuple((image.rles or ())[i] for i in order),
    )


def test_order_and_ranks_change_nothing(truth: dict[str, Any], found: list[ImageDetections]) -> None:
    expected = outcome(truth, [found])
    rng = np.random.default_rng(0)
    mixed = [shuffled(found[i], rng) for i in rng.permutation(len(found))]
    for parts in ([mixed], [mixed[::2], mixed[1::2]], [mixed[:7], [], mixed[7:]]):
        result = outcome(truth, parts)
        assert result.metrics == expected.metrics  # to the last bit: many scores are equal here
        assert result.per_class == expected.per_class
        assert result.detections == expected.detections


def test_an_image_counts_once(truth: dict[str, Any], found: list[ImageDetections]) -> None:
    evaluator = Evaluator(GroundTruth(coco=truth), predicts=BOTH)
    evaluator.add_image(found[0])
    with pytest.raises(ValueError, match="image 10 was evaluated twice"):
        evaluator.add_image(found[0])
    with pytest.raises(ValueError, match="evaluated twice"):
        evaluator.merge([evaluator.state(), evaluator.state()])


def test_every_image_must_have_been_seen(truth: dict[str, Any], found: list[ImageDetections]) -> None:
    evaluator = Evaluator(GroundTruth(coco=truth), predicts=BOTH)
    for image in found[1:]:
        evaluator.add_image(image)
    with pytest.raises(ValueError, match=r"1 of 30 images were not evaluated, the first \[10\]"):
        evaluator.compute()


def test_what_does_not_belong_together_is_refused() -> None:
    evaluator = Evaluator(GroundTruth(coco=TRUTH), predicts=BOTH)
    boxes = [[[0.0, 0.0, 1.0, 1.0]]]
    with pytest.raises(ValueError, match="the model gives none"):
        evaluator.add(batch_of([0], [HALF], [(100, 200)]), detections_of(boxes, [[True]]))
    with pytest.raises(ValueError, match="image 40 is 201 x 100 pixels, its ground truth says 200 x 100"):
        evaluator.add(batch_of([0], [HALF], [(100, 201)]), detections_of(boxes, [[True]], masks=True))
    three = ImageDetections(
        image_id=7, boxes_xyxy=np.array([[0.0, 0, 1, 1]]), scores=np.ones(1), labels=np.array([2]), rles=(b"",)
    )
    with pytest.raises(ValueError, match="labels 2 to 2, the ground truth has 2 classes"):
        evaluator.add_image(three)
