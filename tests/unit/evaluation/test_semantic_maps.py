"""Figures of semantic maps, against their formulas written plainly."""

import pickle

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from detcore.config import EvaluationConfig
from detcore.evaluation import Evaluation, Evaluator, GroundTruth
from detcore.evaluation.semantic import near_edge
from detcore.ops import semantic_map
from detcore.structures.batch import Batch, Detections

NAMES = ("sky", "road", "tree", "never")


def truth_of(maps: list[np.ndarray]) -> GroundTruth:
    coco = {
        "images": [{"id": 50 + i, "height": m.shape[0], "width": m.shape[1]} for i, m in enumerate(maps)],
        "categories": [],
        "annotations": [],
    }
    return GroundTruth(coco=coco, semantic=lambda sample: maps[sample], semantic_classes=NAMES)


def batch_of(samples: list[int], sizes: list[tuple[int, int]], images: tuple[int, int], content: list) -> Batch:
    rows = len(samples)
    return Batch(
        images=torch.zeros(rows, 3, *images),
        image_sizes=torch.tensor(content),
        sample_ids=torch.tensor(samples),
        real=torch.tensor(samples) >= 0,
        original_sizes=torch.tensor(sizes),
        geometry=torch.eye(3).repeat(rows, 1, 1),
        rng_key=torch.zeros(2, dtype=torch.int64),
    )


def detections_of(logits: torch.Tensor) -> Detections:
    boxes = torch.zeros(len(logits), 0, 4)
    return Detections(boxes, boxes[..., 0], boxes[..., 0].long(), boxes[..., 0].bool(), semantic=logits)


def exact(maps: list[np.ndarray], size: tuple[int, int]) -> torch.Tensor:
    """Logits at full size from which the classes come out again; the padding says class 3."""
    logits = torch.zeros(len(maps), 4, *size)
    logits[:, 3] = 0.5
    for row, own in enumerate(maps):
        height, width = own.shape
        logits[row, :, :height, :width] = torch.nn.functional.one_hot(torch.from_numpy(own).long(), 4).permute(2, 0, 1)
    return logits


@pytest.fixture
def maps() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """True and predicted maps of five images, in blocks; some truth is 255."""
    rng = np.random.default_rng(0)

    def blocks(classes: int) -> list[np.ndarray]:
        return [
            np.kron(rng.integers(0, classes, (5, 4)), np.ones((8, 8))).astype(np.uint8)[: 30 + i, : 25 + i]
            for i in range(5)
        ]

    truth, noise = blocks(3), blocks(4)
    predicted = [np.where(rng.random(t.shape) < 0.7, t, n) for t, n in zip(truth, noise, strict=True)]
    for own in truth:
        own[:3] = 255
    return truth, predicted


def evaluate(truth: list[np.ndarray], predicted: list[np.ndarray], parts: list[list[int]], **settings) -> Evaluation:
    """Each part in batches of two on an evaluator of its own, merged in the first; the last batch is filled."""
    evaluators = []
    for part in parts:
        evaluator = Evaluator(truth_of(truth), predicts=("semantic",), settings=EvaluationConfig(**settings))
        for start in range(0, len(part), 2):
            rows = [*part[start : start + 2], -1][:2]
            sizes = [truth[row].shape if row >= 0 else (0, 0) for row in rows]
            shown = [predicted[row] if row >= 0 else np.zeros((0, 0), np.uint8) for row in rows]
            evaluator.add(batch_of(rows, sizes, (64, 64), sizes), detections_of(exact(shown, (64, 64))))
        evaluators.append(evaluator)
    evaluators[0].merge([pickle.loads(pickle.dumps(evaluator.state())) for evaluator in evaluators])
    return evaluators[0].compute()


def test_the_formulas(maps) -> None:
    truth, predicted = maps
    evaluation = evaluate(truth, predicted, [[0, 1, 2, 3, 4]])
    t, p = (np.concatenate([own.ravel() for own in side]) for side in (truth, predicted))
    t, p = t[t != 255], p[t != 255]
    iou = [((t == c) & (p == c)).sum() / ((t == c) | (p == c)).sum() for c in range(3)]
    accuracy = [(p[t == c] == c).mean() for c in range(3)]
    share = [(t == c).mean() for c in range(3)]
    assert evaluation.metrics == pytest.approx(
        {
            "miou": 100 * np.mean(iou),  # the class that is nowhere true does not count
            "fwiou": 100 * np.dot(iou, share),
            "macc": 100 * np.mean(accuracy),
            "pacc": 100 * (t == p).mean(),
        }
    )
    assert evaluation.per_class == {
        name: pytest.approx({"iou": 100 * i, "acc": 100 * a}) for name, i, a in zip(NAMES, iou, accuracy, strict=False)
    }
    assert evaluation.results is None and evaluation.detections == [] and evaluation.curves == {}


def test_order_batches_and_ranks_change_nothing(maps) -> None:
    expected = evaluate(*maps, [[0, 1, 2, 3, 4]], boundary_iou=True)
    for parts in ([[4, 2, 0], [1, 3]], [[3], [], [0, 1, 4, 2]]):
        found = evaluate(*maps, parts, boundary_iou=True)
        assert found.metrics == expected.metrics and found.per_class == expected.per_class
    with pytest.raises(ValueError, match="image 52 was evaluated twice"):
        evaluate(*maps, [[0, 1, 2], [2, 3, 4]])
    with pytest.raises(ValueError, match=r"1 of 5 images were not evaluated, the first \[53\]"):
        evaluate(*maps, [[0, 1], [2, 4]])


def test_what_does_not_fit() -> None:
    wrong = np.full((4, 4), 7, np.uint8)
    with pytest.raises(ValueError, match="image 50: its semantic map has class 7, there are 4"):
        evaluate([wrong], [np.zeros((4, 4), np.uint8)], [[0]])
    evaluator = Evaluator(truth_of([wrong]), predicts=("semantic",))
    with pytest.raises(ValueError, match="tells 2 semantic classes apart, the ground truth has 4"):
        evaluator.add(batch_of([0], [(4, 4)], (4, 4), [(4, 4)]), detections_of(torch.zeros(1, 2, 4, 4)))


def eroded(region: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        padded = np.pad(region, 1)
        region = np.min(
            [padded[i : i + region.shape[0], j : j + region.shape[1]] for i in range(3) for j in range(3)], axis=0
        )
    return region


def test_boundary_iou_by_erosion(maps) -> None:
    # arXiv:2103.16562: of each region what its erosion takes away, d = 2 % of the diagonal; here 1 pixel.
    truth, predicted = maps
    shared, either = np.zeros(3), np.zeros(3)
    for t, p in zip(truth, predicted, strict=True):
        for c in range(3):
            edge, own = ((m == c) & ~eroded(m == c, 1) for m in (t, p))
            own &= t != 255
            shared[c] += (edge & own).sum()
            either[c] += (edge | own).sum()
    metrics = evaluate(truth, predicted, [[0, 1, 2, 3, 4]], boundary_iou=True).metrics
    assert metrics["boundary_iou"] == pytest.approx(100 * np.mean(shared / either))


def test_the_reach_of_a_boundary() -> None:
    classes = np.kron(np.random.default_rng(2).integers(0, 3, (4, 5)), np.ones((40, 40))).astype(np.int64)
    reach = round(0.02 * np.hypot(160, 200))  # 5
    expected = np.any([(classes == c) & ~eroded(classes == c, reach) for c in range(3)], axis=0)
    np.testing.assert_array_equal(near_edge(torch.from_numpy(classes)).numpy(), expected)


def test_logits_reach_the_raw_image() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 300, 16, 24)
    batch = batch_of([0, 1], [(1, 1), (75, 135)], (64, 96), [(1, 1), (50, 90)])
    enlarged = interpolate(logits[1:], (64, 96), mode="bilinear", align_corners=False)[..., :50, :90]
    expected = interpolate(enlarged, (75, 135), mode="bilinear", align_corners=False)[0].argmax(dim=0)
    torch.testing.assert_close(semantic_map(logits, batch, 1), expected)
    known = semantic_map(logits, batch, 1, content_size=(50, 90), image_size=(75, 135))
    torch.testing.assert_close(known, expected)
    small = semantic_map(logits[:, :200].bfloat16(), batch, 1)
    assert small.dtype == torch.uint8 and small.shape == (75, 135)
    assert (semantic_map(torch.zeros(2, 5, 16, 24), batch, 1) == 0).all()


def test_classes_are_enlarged_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(1, 7, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = batch_of([0], [(40, 41)], (32, 32), [(32, 30)])
    expected = semantic_map(logits, batch, 0)
    monkeypatch.setattr("detcore.ops.semantic._PIXELS", 4000)
    torch.testing.assert_close(semantic_map(logits, batch, 0), expected)
