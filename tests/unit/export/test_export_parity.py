"""When two forms of a detector see the same."""

from dataclasses import replace

import pytest
import torch

from detcore.export.parity import NUDGES, Difference, compare, compare_up_to_ties
from detcore.structures.batch import Detections

SEEN = Detections(
    boxes_xyxy=torch.tensor([[[10.0, 10, 50, 50], [12, 11, 52, 50], [0, 0, 20, 30], [0, 0, 0, 0]]]),
    scores=torch.tensor([[0.9, 0.8, 0.3, 0.0]]),
    labels=torch.tensor([[1, 0, 2, 0]]),
    valid=torch.tensor([[True, True, True, False]]),
    masks=torch.full((1, 4, 2, 2), 0.5),
)


def test_the_same_is_the_same() -> None:
    difference = compare(SEEN, SEEN)
    assert difference == Difference(images=1, detections=3) and difference.small


def test_another_order_of_equal_detections_does_not_count() -> None:
    order = torch.tensor([1, 0, 2, 3])
    assert compare(SEEN, SEEN.map(lambda tensor: tensor[:, order])).small


@pytest.mark.parametrize(
    ("field", "change", "told", "value"),
    [
        ("boxes_xyxy", 0.75, "box_pixels", 0.75),
        ("scores", -0.01, "score", 0.01),
        ("masks", 0.125, "probability", 0.125),
    ],
)
def test_what_differs_is_told(field: str, change: float, told: str, value: float) -> None:
    moved = getattr(SEEN, field).clone()
    moved[0, 1] += change
    difference = compare(SEEN, replace(SEEN, **{field: moved}))
    assert not difference.small and getattr(difference, told) == pytest.approx(value, abs=1e-6)


def test_another_class_is_another_detection() -> None:
    labels = torch.tensor([[1, 5, 2, 0]])
    assert compare(SEEN, replace(SEEN, labels=labels)).missing == 2


def test_only_at_the_lowest_score_may_one_lack() -> None:
    third = replace(SEEN, valid=torch.tensor([[True, True, False, False]]))
    assert compare(SEEN, third).small
    second = replace(SEEN, valid=torch.tensor([[True, False, True, False]]))
    assert compare(SEEN, second).missing == 1


def test_pixels_classes_are_compared_as_probabilities() -> None:
    logits = torch.zeros(1, 2, 3, 3)
    seen = replace(SEEN, semantic=logits)
    assert compare(seen, replace(seen, semantic=logits + 7.0)).small
    assert compare(seen, replace(seen, semantic=logits + torch.tensor([0.0, 1.0]).view(1, 2, 1, 1))).probability > 0.2


def test_what_a_rounding_decides_may_go_either_way() -> None:
    """The second image's second box is another, and so it is for the detector itself, at the third nudge."""
    seen = SEEN.map(lambda tensor: tensor.repeat(2, *[1] * (tensor.dim() - 1)))
    boxes = seen.boxes_xyxy.clone()
    boxes[1, 1] += 15
    other = replace(seen, boxes_xyxy=boxes)
    asked = []

    def nudged(number: int) -> Detections:
        asked.append(number)
        return other if number == 2 else seen

    assert compare(seen, other).missing == 2
    tied = compare_up_to_ties(seen, other, nudged)
    assert tied == Difference(images=2, detections=6, near_ties=1) and tied.small and asked == [0, 1, 2]
    assert str(tied).endswith("; a near tie in 1 of the images")


def test_what_no_rounding_explains_is_told() -> None:
    other = replace(SEEN, boxes_xyxy=SEEN.boxes_xyxy + torch.tensor([[[0.0], [15], [0], [0]]]))
    asked: list[int] = []
    difference = compare_up_to_ties(SEEN, other, lambda number: asked.append(number) or SEEN)  # type: ignore[func-returns-value]
    assert difference == compare(SEEN, other) and not difference.small and asked == list(range(NUDGES))


def test_of_the_same_nothing_is_asked() -> None:
    assert compare_up_to_ties(SEEN, SEEN, lambda number: pytest.fail("asked")).small
