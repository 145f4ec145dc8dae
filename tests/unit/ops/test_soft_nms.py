"""Soft suppression of a batch against the paper's loop over one image's boxes, in plain Python."""

import math

import pytest
import torch

from detcore.ops import soft_nms_padded

Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def plain(
    boxes: list[Box], scores: list[float], groups: list[int], valid: list[bool], method: str, most: int
) -> list[tuple[int, float]]:
    """Figure 2 of arXiv:1704.04503, within each group; IoU threshold 0.3, sigma 0.5, least score 0.05."""
    left = {i: score for i, score in enumerate(scores) if valid[i]}
    kept = []
    while left and len(kept) < most:
        best = max(left, key=lambda i: (left[i], -i))
        score = left.pop(best)
        if score <= 0.05:
            break
        kept.append((best, score))
        for i in left:
            iou = overlap(boxes[best], boxes[i]) if groups[i] == groups[best] else 0.0
            if method == "gaussian":
                left[i] *= math.exp(-iou * iou / 0.5)
            elif iou > 0.3:
                left[i] *= 1 - iou
    return kept


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@pytest.mark.parametrize("most", [5, 60])
def test_equals_the_paper_s_loop(method: str, most: int) -> None:
    generator = torch.Generator().manual_seed(0)
    corner = 30 * torch.rand(2, 40, 2, generator=generator, dtype=torch.float64)
    boxes = torch.cat((corner, corner + 5 + 20 * torch.rand(2, 40, 2, generator=generator)), dim=-1)
    scores = torch.rand(2, 40, generator=generator, dtype=torch.float64)
    groups = torch.randint(3, (2, 40), generator=generator)
    valid = torch.rand(2, 40, generator=generator) > 0.1
    limits = {"iou_threshold": 0.3, "sigma": 0.5, "min_score": 0.05, "max_keep": most}
    keep, kept_scores, count = soft_nms_padded(boxes, scores, groups, method=method, valid=valid, **limits)
    for image in range(2):
        columns = (boxes[image], scores[image], groups[image], valid[image])
        expected = plain(*(column.tolist() for column in columns), method, most)
        number = int(count[image])
        assert keep[image, :number].tolist() == [index for index, _ in expected]
        assert kept_scores[image, :number].tolist() == pytest.approx([score for _, score in expected])
        assert not keep[image, number:].any() and not kept_scores[image, number:].any()


def test_equal_boxes_and_odd_values() -> None:
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor([[[0.0, 0, 4, 4], [0, 0, 4, 4], [nan, 0, 1, 1], [0, 0, inf, 4], [2, 2, 2, 2], [0, 0, 4, 4]]])
    scores = torch.tensor([[0.9, 0.9, 0.8, 0.7, 0.6, nan]])
    settings = {"iou_threshold": 0.5, "sigma": 0.5, "min_score": 0.0, "max_keep": 8}
    keep, kept_scores, count = soft_nms_padded(boxes, scores, None, method="linear", **settings)
    # The second is the first again: its score falls to 0. What is not finite or empty overlaps nothing.
    assert keep[0].tolist() == [0, 2, 3, 4, 0, 0, 0, 0] and count.tolist() == [4]
    torch.testing.assert_close(kept_scores[0, :4], torch.tensor([0.9, 0.8, 0.7, 0.6]))
    empty = soft_nms_padded(torch.zeros(2, 0, 4), torch.zeros(2, 0), None, method="gaussian", **settings)
    assert empty[0].shape == (2, 8) and not empty[2].any()


def test_impossible_settings_are_refused() -> None:
    settings = {"iou_threshold": 0.5, "min_score": 0.0, "max_keep": 8}
    with pytest.raises(ValueError, match="sigma 0"):
        soft_nms_padded(torch.zeros(1, 1, 4), torch.zeros(1, 1), None, method="gaussian", sigma=0.0, **settings)
    with pytest.raises(ValueError, match="'hard'"):
        soft_nms_padded(torch.zeros(1, 1, 4), torch.zeros(1, 1), None, method="hard", sigma=0.5, **settings)


@pytest.mark.gpu
def test_the_host_does_not_wait() -> None:
    boxes, scores = torch.rand(2, 50, 4, device="cuda"), torch.rand(2, 50, device="cuda")
    settings = {"iou_threshold": 0.5, "sigma": 0.5, "min_score": 0.0, "max_keep": 8}
    torch.cuda.set_sync_debug_mode("error")
    try:
        soft_nms_padded(boxes, scores, None, method="gaussian", **settings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
