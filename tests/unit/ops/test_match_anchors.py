"""Expected values: IoU by torchvision, the rules of Faster R-CNN applied to the whole matrix."""

import pytest
import torch
import torchvision
from torch import Tensor

from detcore.ops import match_anchors, matching


def random_boxes(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 24, (*shape, 2), generator=generator).float()
    return torch.cat((corner, corner + torch.randint(1, 12, (*shape, 2), generator=generator)), dim=-1)


def expected(
    anchors: Tensor, gt: Tensor, valid: Tensor, thresholds: tuple[float, float], low_quality: bool
) -> tuple[Tensor, Tensor]:
    iou = torchvision.ops.box_iou(anchors, gt)
    iou[:, ~valid] = 0
    best, matched = iou.max(dim=1)
    status = torch.full_like(matched, -1)
    status[best < thresholds[0]] = 0
    status[best >= thresholds[1]] = 1
    for m in torch.nonzero(valid)[:, 0].tolist() if low_quality else []:
        status[(iou[:, m] == iou[:, m].max()) & (iou[:, m] > 0)] = 1
    matched[best == 0] = 0
    return matched, status.to(torch.int8) if valid.any() else torch.zeros_like(status, dtype=torch.int8)


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("thresholds", [(0.3, 0.7), (0.5, 0.5)])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("chunk", [2**15, 3 * 300 * 2])
def test_equals_the_rules_on_the_matrix(
    low_quality: bool, thresholds: tuple[float, float], shared: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_CPU_CHUNK", chunk)
    anchors = random_boxes((300,) if shared else (3, 300), 0)
    gt = random_boxes((3, 7), 1)
    valid = torch.tensor([[1, 1, 1, 1, 1, 1, 1], [1, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    matched, status = match_anchors(anchors, gt, valid, thresholds, low_quality)
    assert (matched.dtype, status.dtype) == (torch.int64, torch.int8)
    for image in range(3):
        own = anchors if shared else anchors[image]
        want_matched, want_status = expected(own, gt[image], valid[image], thresholds, low_quality)
        torch.testing.assert_close(matched[image], want_matched)
        torch.testing.assert_close(status[image], want_status)
    assert (status == 1).any() and (status == 0).any()


def test_a_truth_that_touches_no_anchor_makes_none_positive() -> None:
    anchors = torch.tensor([[0.0, 0, 4, 4], [4, 4, 8, 8]])
    _, status = match_anchors(
        anchors, torch.tensor([[[50.0, 50, 60, 60]]]), torch.ones((1, 1), dtype=torch.bool), (0.3, 0.7), True
    )
    assert status.tolist() == [[0, 0]]


def test_undefined_boxes_match_nothing() -> None:
    anchors = torch.tensor([[0.0, 0, 4, 4], [torch.nan, 0, 4, 4], [0, 0, torch.inf, 4], [0, 0, 0, 0]])
    gt = torch.tensor([[[torch.nan] * 4, [0, 0, torch.inf, torch.inf], [0, 0, 4, 4], [0, 0, 0, 0]]])
    matched, status = match_anchors(anchors, gt, torch.ones((1, 4), dtype=torch.bool), (0.3, 0.7), True)
    assert matched.tolist() == [[2, 0, 0, 0]]
    assert status.tolist() == [[1, 0, 0, 0]]


def test_empty_inputs() -> None:
    for batch, num_anchors, num_gt in ((0, 3, 2), (2, 0, 2), (2, 3, 0)):
        matched, status = match_anchors(
            torch.zeros(num_anchors, 4),
            torch.zeros(batch, num_gt, 4),
            torch.ones((batch, num_gt), dtype=torch.bool),
            (0.3, 0.7),
            True,
        )
        assert matched.shape == status.shape == (batch, num_anchors)
        assert not status.any()


def test_thresholds_out_of_order() -> None:
    with pytest.raises(ValueError, match="thresholds"):
        match_anchors(torch.zeros(1, 4), torch.zeros(1, 1, 4), torch.ones((1, 1), dtype=torch.bool), (0.7, 0.3), False)
