"""Expected values: torchvision's operators, and boxes whose IoU is known by hand."""

import pytest
import torch
import torchvision
from torch import Tensor

from detcore.ops import batched_nms, nms, nms_padded
from detcore.ops.nms import nms_padded_reference


def random_boxes(batch: int, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand((batch, count, 2), generator=generator) * 60
    size = torch.rand((batch, count, 2), generator=generator) * 40 + 1
    # Few distinct scores: ties are common.
    scores = torch.randint(0, 20, (batch, count), generator=generator) / 20
    groups = torch.randint(0, 4, (batch, count), generator=generator)
    return torch.cat((corner, corner + size), dim=-1), scores, groups


def expected(boxes: Tensor, scores: Tensor, groups: Tensor | None, threshold: float, valid: Tensor) -> list[int]:
    """Greedy suppression, box by box, from its definition; IoU by torchvision."""
    overlap = torchvision.ops.box_iou(boxes, boxes) > threshold
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        rivals = [k for k in kept if groups is None or groups[k] == groups[i]]
        if valid[i] and not overlap[rivals, i].any():
            kept.append(i)
    return kept


def test_nms_equals_torchvision() -> None:
    boxes, scores, _ = random_boxes(1, 200, 0)
    torch.testing.assert_close(nms(boxes[0], scores[0], 0.5), torchvision.ops.nms(boxes[0], scores[0], 0.5))
    low = nms(boxes[0].bfloat16(), scores[0].bfloat16(), 0.5)
    torch.testing.assert_close(low, torchvision.ops.nms(boxes[0].bfloat16().float(), scores[0].bfloat16().float(), 0.5))


def test_a_box_at_the_threshold_survives() -> None:
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1]])  # IoU exactly 1/2
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.5).tolist() == [0, 1]
    assert nms(boxes, scores, 0.499).tolist() == [0]
    for function in (nms_padded, nms_padded_reference):
        valid = {"valid": torch.ones((1, 2), dtype=torch.bool)}
        assert function(boxes[None], scores[None], None, 0.5, 2, **valid)[1].tolist() == [2]
        assert function(boxes[None], scores[None], None, 0.499, 2, **valid)[1].tolist() == [1]


def test_batched_nms_keeps_groups_apart() -> None:
    boxes, scores, groups = (x[0] for x in random_boxes(1, 200, 1))
    everyone = torch.ones(200, dtype=torch.bool)
    assert batched_nms(boxes, scores, groups, 0.4).tolist() == expected(boxes, scores, groups, 0.4, everyone)
    # An offset in float32 between groups, the usual trick, would round these boxes onto each other.
    far = torch.tensor([[0.0, 0, 1, 1], [0.6, 0, 1.6, 1], [1e7, 0, 1e7 + 1, 1]])
    assert batched_nms(far, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 0]), 0.3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("max_keep", [5, 12, 100])
def test_nms_padded_equals_the_definition(grouped: bool, max_keep: int) -> None:
    boxes, scores, groups = random_boxes(3, 80, 2)
    valid = torch.rand((3, 80), generator=torch.Generator().manual_seed(3)) < 0.8
    valid[2] = False
    scores[0, 5] = -torch.inf
    chosen = groups if grouped else None
    for function in (nms_padded, nms_padded_reference):
        keep, count = function(boxes, scores, chosen, 0.5, max_keep, valid=valid)
        assert keep.shape == (3, max_keep)
        for image in range(3):
            group = chosen[image] if chosen is not None else None
            want = expected(boxes[image], scores[image], group, 0.5, valid[image])[:max_keep]
            assert int(count[image]) == len(want)
            assert keep[image].tolist() == want + [0] * (max_keep - len(want))


def test_boxes_without_iou_neither_suppress_nor_vanish() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9]]).repeat(4, 1)
    boxes[0, 0], boxes[2, 2] = torch.nan, torch.inf
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    assert nms(boxes, scores, 0.5).tolist() == [0, 1, 2]
    for function in (nms_padded, nms_padded_reference):
        keep, count = function(boxes[None], scores[None], None, 0.5, 4, valid=torch.ones((1, 4), dtype=torch.bool))
        assert (keep.tolist(), count.tolist()) == ([[0, 1, 2, 0]], [3])


def test_empty_inputs() -> None:
    assert nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)
    assert batched_nms(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), 0.5).shape == (0,)
    for batch, count in ((0, 5), (2, 0), (0, 0)):
        groups = torch.zeros((batch, count), dtype=torch.int64)
        for function in (nms_padded, nms_padded_reference):
            valid = torch.ones((batch, count), dtype=torch.bool)
            keep, kept = function(torch.zeros(batch, count, 4), torch.zeros(batch, count), groups, 0.5, 3, valid=valid)
            assert (keep.tolist(), kept.tolist()) == ([[0, 0, 0]] * batch, [0] * batch)


def test_non_contiguous_inputs() -> None:
    boxes, scores, groups = random_boxes(2, 40, 4)
    wide = torch.empty(4, 40, 2).permute(2, 1, 0).copy_(boxes)
    for one, other in zip(
        nms_padded(wide, scores.T.contiguous().T, groups, 0.5, 20),
        nms_padded(boxes, scores, groups, 0.5, 20),
        strict=True,
    ):
        torch.testing.assert_close(one, other)
