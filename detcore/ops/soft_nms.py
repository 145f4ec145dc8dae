"""Soft non-maximum suppression: a box that overlaps a better one loses score instead of its place."""

from typing import Literal

import torch
from torch import Tensor

from detcore.ops.shapes import expect, expect_integers
from detcore.structures.boxes import at_least_float32, iou


def soft_nms_padded(
    boxes_xyxy: Tensor,
    scores: Tensor,
    groups: Tensor | None,
    *,
    method: Literal["linear", "gaussian"],
    iou_threshold: float,
    sigma: float,
    min_score: float,
    max_keep: int,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Soft-NMS (arXiv:1704.04503) of a whole batch, with an output of fixed size; nothing is read back by the host.

    Again and again the box of highest score is taken, and the scores of those left in its group are multiplied by
    1 - IoU where the IoU with it is above the threshold ('linear'), or by exp(-IoU^2 / sigma) ('gaussian').

    Args:
        boxes_xyxy: (B, N, 4) float. A box with a coordinate that is not finite overlaps nothing.
        scores: (B, N) float; NaN counts as not valid.
        groups: (B, N) integer: boxes of different groups leave each other's scores alone. None is one group.
        method, iou_threshold, sigma: as above.
        min_score: boxes whose score is not above it, or falls to it, are not kept.
        max_keep: at most so many boxes of an image are kept, and so many rounds there are.
        valid: (B, N) bool; rows where it is False neither lower scores nor are kept. None means all are valid.

    Returns:
        keep: (B, max_keep) int64, indices into N by falling new score (of equal ones the lower index first), then 0.
        scores: (B, max_keep) float, the new scores, then 0.
        count: (B,) int64, how many of them are real.

    Raises:
        ValueError: for a method that is neither, or a sigma that is not above 0.
    """
    rows = {"scores": (scores, "B N"), "groups": (groups, "B N"), "valid": (valid, "B N")}
    expect("soft_nms_padded", boxes_xyxy=(boxes_xyxy, "B N 4"), **rows)
    expect_integers("soft_nms_padded", groups=groups)
    if method not in ("linear", "gaussian") or not sigma > 0 or max_keep < 0:
        raise ValueError(
            f"soft_nms_padded: method {method!r} must be 'linear' or 'gaussian', sigma {sigma} above 0, "
            f"max_keep {max_keep} not negative"
        )
    boxes, left = at_least_float32(boxes_xyxy.detach()), at_least_float32(scores.detach())
    usable = left > min_score if valid is None else valid & (left > min_score)
    left = torch.where(usable, left, -torch.inf)
    kept_scores = left.new_zeros((len(left), max_keep))
    keep = torch.zeros_like(kept_scores, dtype=torch.int64)
    count = keep.new_zeros(len(left))
    for slot in range(min(max_keep, left.shape[1])):
        best = left.argmax(dim=1, keepdim=True)
        score = left.gather(1, best)
        found = score > -torch.inf
        keep[:, slot] = torch.where(found, best, 0)[:, 0]
        kept_scores[:, slot] = torch.where(found, score, 0.0)[:, 0]
        count += found[:, 0]
        overlap = _overlap_with(best, boxes, groups)
        linear = torch.where(overlap > iou_threshold, 1 - overlap, 1.0)
        left = left * (linear if method == "linear" else (-overlap.square() / sigma).exp())
        left = torch.where(left > min_score, left, -torch.inf).scatter(1, best, -torch.inf)
    return keep, kept_scores, count


def _overlap_with(best: Tensor, boxes_xyxy: Tensor, groups: Tensor | None) -> Tensor:
    """(B, 1) indices of boxes -> (B, N) IoU of all boxes with them; 0 in other groups and where it is not finite."""
    overlap = iou(boxes_xyxy.gather(1, best[..., None].expand(-1, -1, 4)), boxes_xyxy)[:, 0]
    counts = overlap > 0
    if groups is not None:
        counts = counts & (groups == groups.gather(1, best))
    return torch.where(counts, overlap, 0.0)
