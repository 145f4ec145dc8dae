"""Expected values: the rules of Faster R-CNN on the whole matrix of `box_iou_rotated`; the matches of upright boxes."""

import pytest
import torch
from torch import Tensor

from detcore.ops import box_iou_rotated, match_anchors, match_anchors_rotated, matching
from detcore.structures.rotated_boxes import upright_around


def random_boxes(shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    centre, side = torch.rand(*shape, 2, generator=generator) * 24, 2 + torch.rand(*shape, 2, generator=generator) * 12
    return torch.cat((centre, side, torch.rand(*shape, 1, generator=generator) * 360 - 180), dim=-1)


def expected(
    anchors: Tensor, gt: Tensor, valid: Tensor, thresholds: tuple[float, float], low_quality: bool
) -> tuple[Tensor, Tensor]:
    iou = box_iou_rotated(anchors, gt)
    iou[:, ~valid] = 0
    best, matched = iou.max(dim=1)
    status = torch.full_like(matched, -1)
    status[best < thresholds[0]] = 0
    status[best >= thresholds[1]] = 1
    for m in torch.nonzero(valid)[:, 0].tolist() if low_quality else []:
        if iou[:, m].max() > 0:
            status[iou[:, m].argmax()] = 1
    matched[best == 0] = 0
    return matched, status.to(torch.int8)


@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("chunk", [2**15, 2 * 400])
def test_equals_the_rules_on_the_matrix(
    low_quality: bool, shared: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_CPU_CHUNK", chunk)
    anchors, gt = random_boxes((400,) if shared else (3, 400), 0), random_boxes((3, 5), 1)
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool)
    matched, status = match_anchors_rotated(anchors, gt, valid, (0.3, 0.5), low_quality)
    assert (matched.dtype, status.dtype) == (torch.int64, torch.int8)
    for image in range(3):
        own = anchors if shared else anchors[image]
        want_matched, want_status = expected(own, gt[image], valid[image], (0.3, 0.5), low_quality)
        torch.testing.assert_close(matched[image], want_matched)
        torch.testing.assert_close(status[image], want_status)
    assert (status == 1).any() and (status == 0).any() and (status == -1).any()


def test_at_angle_0_matches_are_those_of_upright_boxes() -> None:
    anchors, gt = random_boxes((300,), 2), random_boxes((2, 6), 3)
    anchors[..., 4] = gt[..., 4] = 0
    valid = torch.ones(2, 6, dtype=torch.bool)
    for found, want in zip(
        match_anchors_rotated(anchors, gt, valid, (0.3, 0.7), True),
        match_anchors(upright_around(anchors), upright_around(gt), valid, (0.3, 0.7), True),
        strict=True,
    ):
        torch.testing.assert_close(found, want)


def test_of_anchors_that_tie_the_first_alone_is_positive() -> None:
    anchors = torch.tensor([[40.0, 40, 4, 4, 0], [10, 10, 8, 4, 30], [10, 10, 4, 8, 120], [10, 10, 8, 4, -150]])
    gt = torch.tensor([[[10.0, 10, 8, 8, 30]]])  # IoU 0.5 with the last three, which are one region
    _, status = match_anchors_rotated(anchors, gt, torch.ones(1, 1, dtype=torch.bool), (0.3, 0.7), True)
    assert status.tolist() == [[0, 1, -1, -1]]


def test_empty_inputs_and_wrong_ones() -> None:
    for batch, num_anchors, num_gt in ((0, 3, 2), (2, 0, 2), (2, 3, 0)):
        valid = torch.ones((batch, num_gt), dtype=torch.bool)
        matched, status = match_anchors_rotated(
            torch.zeros(num_anchors, 5), torch.zeros(batch, num_gt, 5), valid, (0.3, 0.7), True
        )
        assert matched.shape == status.shape == (batch, num_anchors)
        assert not status.any()
    one, valid = torch.zeros(1, 1, 5), torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="must not exceed"):
        match_anchors_rotated(torch.zeros(1, 5), one, valid, (0.7, 0.3), True)
    with pytest.raises(ValueError, match="must be"):
        match_anchors_rotated(torch.zeros(1, 4), one, valid, (0.3, 0.7), True)
