"""Panoptic quality against its definition (arXiv:1801.00868, section 4), written plainly, and by hand."""

from typing import Any

import numpy as np
import pytest

from detcore.evaluation.panoptic import Category, PanopticMaps, Segments, count_segments

CAR, TREE = (True, 0), (False, 1)


def segments(ids: Any, categories: dict[int, Category], crowd: tuple[int, ...] = ()) -> Segments:
    return Segments(ids=np.array(ids, np.int32), categories=categories, crowd=frozenset(crowd))


def brute_force(truth: Segments, predicted: Segments) -> dict[Category, list[float]]:
    """Every pair of masks, one by one."""
    void = ~np.isin(truth.ids, list(truth.categories))
    every = {*truth.categories.values(), *predicted.categories.values()}
    counts: dict[Category, list[float]] = {category: [0.0] * 4 for category in every}
    hits: set[int] = set()
    for a, category in truth.categories.items():
        mask = truth.ids == a
        if a in truth.crowd or not mask.any():
            continue
        found = False
        for b, own in predicted.categories.items():
            other = predicted.ids == b
            if own == category and (iou := (mask & other).sum() / (mask | (other & ~void)).sum()) > 0.5:
                counts[category][0] += iou
                counts[category][1] += 1
                hits.add(b)
                found = True
        counts[category][3] += not found
    for b, category in predicted.categories.items():
        other = predicted.ids == b
        if b in hits or not other.any():
            continue
        crowd = [truth.ids == a for a in truth.crowd if truth.categories[a] == category]
        excused = other & np.any([void, *crowd], axis=0)
        counts[category][2] += excused.sum() / other.sum() <= 0.5
    return {category: values for category, values in counts.items() if any(values)}


@pytest.mark.parametrize("seed", range(20))
def test_every_pair_of_masks_says_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 9, (6, 7))
    truth = np.kron(coarse, np.ones((5, 5))).astype(np.int32)
    predicted = np.where(rng.random(truth.shape) < 0.75, truth, rng.integers(0, 9, truth.shape))
    predicted[rng.random(truth.shape) < 0.05] = 77  # a segment that the table does not know
    categories = {i: (bool(i % 2), i % 3) for i in range(1, 9)}
    swapped = categories | {3: categories[2], 8: categories[5]}
    true_segments = segments(truth, categories, crowd=(4, 7))
    own = segments(predicted, {i: swapped[i] for i in range(1, 9)} | {99: CAR})  # 99 has no pixel
    found = count_segments(true_segments, own)
    assert sum(c[1] for c in found.values()) and sum(c[2:].sum() for c in found.values())
    expected = brute_force(true_segments, own)
    assert {c: v.tolist() for c, v in found.items()} == {c: pytest.approx(v) for c, v in expected.items()}


def test_a_match_by_hand() -> None:
    # Ten pixels of a car, of which eight are found with two more: IoU 8 / 12.
    truth = [[1] * 10 + [2] * 10]
    predicted = [[5] * 2 + [7] * 8 + [7] * 2 + [5] * 8]
    found = count_segments(segments(truth, {1: CAR, 2: TREE}), segments(predicted, {7: CAR, 5: TREE}))
    assert {c: v.tolist() for c, v in found.items()} == {CAR: [8 / 12, 1, 0, 0], TREE: [8 / 12, 1, 0, 0]}


def test_an_iou_of_a_half_is_no_match() -> None:
    truth, predicted = [[1] * 4 + [2] * 4], [[3] * 2 + [4] * 6]
    found = count_segments(segments(truth, {1: CAR, 2: TREE}), segments(predicted, {3: CAR, 4: TREE}))
    assert found[CAR].tolist() == [0, 0, 1, 1]
    assert found[TREE].tolist() == [4 / 6, 1, 0, 0]


def test_void_shrinks_the_union_and_excuses() -> None:
    # 6 pixels of the car found, and 4 more that are void: exact.
    found = count_segments(segments([[1] * 6 + [0] * 4], {1: CAR}), segments([[3] * 10], {3: CAR}))
    assert found[CAR].tolist() == [1, 1, 0, 0]
    # A prediction with 6 of 10 pixels in void is no error, with 5 it is.
    for void, errors in ((6, 0), (5, 1)):
        truth = segments([[0] * void + [1] * (10 - void)], {1: TREE})
        assert count_segments(truth, segments([[3] * 10], {3: CAR})).get(CAR, np.zeros(4))[2] == errors


def test_crowd_excuses_its_own_category_and_is_never_missed() -> None:
    crowd = segments([[1] * 10], {1: CAR}, crowd=(1,))
    assert count_segments(crowd, segments([[3] * 5 + [4] * 5], {3: CAR, 4: CAR})) == {}
    found = count_segments(crowd, segments([[3] * 10], {3: TREE}))
    assert {c: v.tolist() for c, v in found.items()} == {TREE: [0, 0, 1, 0]}


class FakeBatch:
    """Rows of a batch, as `PanopticMaps` sees them."""

    def __init__(self, samples: list[int]) -> None:
        self.rows, self.samples = list(range(len(samples))), samples
        self.images = {row: {"id": 10 + sample} for row, sample in enumerate(samples)}
        self.sizes = [(1, 10)] * len(samples)


def measure(parts: list[list[int]]) -> Any:
    """Three images: a car with IoU .8 and its tree .8; a missed car; nothing but void."""
    truth = [
        [[1] * 5 + [2] * 5],
        [[1] * 5 + [0] * 5],
        [[0] * 10],
    ]
    table = [
        {"id": 1, "category": 0, "is_thing": True, "iscrowd": 0},
        {"id": 2, "category": 1, "is_thing": False, "iscrowd": 0},
    ]
    predicted = [
        segments([[7] * 4 + [8] * 6], {7: CAR, 8: TREE}),
        segments([[0] * 10], {}),
        segments([[0] * 10], {}),
    ]

    def true_map(sample: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
        ids = np.array(truth[sample], np.int32)
        return ids, [row for row in table if (ids == row["id"]).any()]

    measures = [
        PanopticMaps(
            truth=true_map,
            combine=lambda found, row: predicted[found.samples[row]],
            things=("car", "tree"),
            stuff=("things", "tree"),
        )
        for _ in parts
    ]
    for own, part in zip(measures, parts, strict=True):
        own.add(FakeBatch(part))  # type: ignore[arg-type]
    measures[0].merge([own.state() for own in measures])
    return measures[0].compute()["panoptic"]


def test_the_qualities() -> None:
    outcome = measure([[0, 1, 2]])
    # Cars: one match of IoU 4/5 and one missed: PQ .8 / 1.5, SQ .8, RQ 1 / 1.5. Trees: 5/6, 5/6, 1.
    cars, trees = np.array([0.8 / 1.5, 0.8, 1 / 1.5]) * 100, np.array([5 / 6, 5 / 6, 1]) * 100
    for index, name in enumerate(("pq", "sq", "rq")):
        assert outcome.metrics[name] == pytest.approx((cars[index] + trees[index]) / 2)
        assert outcome.metrics[f"{name}_things"] == pytest.approx(cars[index])
        assert outcome.metrics[f"{name}_stuff"] == pytest.approx(trees[index])
    assert outcome.per_class["car"] == pytest.approx(dict(zip(("pq", "sq", "rq"), cars, strict=True)))
    assert outcome.per_class.keys() == {"car", "tree (stuff)"}  # a thing is called tree, too


def test_order_and_ranks_change_nothing() -> None:
    expected = measure([[0, 1, 2]])
    for parts in ([[2, 1, 0]], [[1], [], [2, 0]]):
        assert measure(parts) == expected
