"""Non-maximum suppression of axis-aligned boxes.

A box is suppressed when its IoU with a better box that was itself kept lies strictly above the threshold. A box with a
non-finite coordinate has no IoU: it suppresses nothing and nothing suppresses it.
"""

import torch
import torchvision
from torch import Tensor

from detcore.ops import native
from detcore.ops.greedy import declare_suppression, pad_kept, suppress_padded
from detcore.ops.shapes import expect, expect_integers


def nms(boxes_xyxy: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes that survive, by falling score; of equal scores the lower index comes first.

    Args:
        boxes_xyxy: (N, 4) float, x1 <= x2 and y1 <= y2.
        scores: (N,) float.
        iou_threshold: a box is suppressed above it.

    Returns:
        (K,) int64. Its length depends on the data: on a GPU the call synchronises once.
    """
    expect("nms", boxes_xyxy=(boxes_xyxy, "N 4"), scores=(scores, "N"))
    boxes_xyxy, scores = _at_least_fp32(boxes_xyxy), _at_least_fp32(scores)
    kept: Tensor
    if native.serves(boxes_xyxy.device.type):
        kept = torch.ops.detcore.nms(boxes_xyxy.detach(), scores.detach(), None, iou_threshold)
    else:
        kept = torchvision.ops.nms(boxes_xyxy, scores, iou_threshold)
    return kept


def batched_nms(boxes_xyxy: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """`nms` within each group (a class, a pyramid level): boxes of different groups do not suppress each other.

    Args:
        boxes_xyxy: (N, 4) float.
        scores: (N,) float.
        groups: (N,) integer.
        iou_threshold: as in `nms`.

    Returns:
        (K,) int64, by falling score over all groups.
    """
    expect("batched_nms", boxes_xyxy=(boxes_xyxy, "N 4"), scores=(scores, "N"), groups=(groups, "N"))
    expect_integers("batched_nms", groups=groups)
    boxes_xyxy, scores = _at_least_fp32(boxes_xyxy), _at_least_fp32(scores)
    kept: Tensor
    if native.serves(boxes_xyxy.device.type):
        kept = torch.ops.detcore.nms(boxes_xyxy.detach(), scores.detach(), groups, iou_threshold)
        return kept
    if boxes_xyxy.is_cuda:
        kept = torchvision.ops.batched_nms(boxes_xyxy, scores, groups, iou_threshold)
        return kept
    order = scores.argsort(descending=True, stable=True)
    return order[_nms_of_sorted(boxes_xyxy[order], groups[order], iou_threshold)]


def nms_padded(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor | None,
    iou_threshold: float,
    max_keep: int,
    *,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`batched_nms` of a whole batch, with an output of fixed size.

    On a GPU nothing is read back by the host: the call can be captured in a CUDA graph.

    Args:
        boxes: (B, N, 4) float, (x1, y1, x2, y2).
        scores: (B, N) float.
        groups: (B, N) integer, or None when every box competes with every other of its image.
        iou_threshold: a box is suppressed above it.
        max_keep: at most so many boxes of an image are kept, the best ones.
        valid: (B, N) bool; rows where it is False neither suppress nor are kept. None means all are valid.

    Returns:
        keep: (B, max_keep) int64, indices into N by falling score (of equal scores the lower index first), then zeros.
        count: (B,) int64, how many of them are real.
    """
    expect("nms_padded", boxes=(boxes, "B N 4"), scores=(scores, "B N"), groups=(groups, "B N"), valid=(valid, "B N"))
    expect_integers("nms_padded", groups=groups)
    if max_keep < 0:
        raise ValueError(f"nms_padded: max_keep {max_keep} must not be negative")
    boxes, scores = _at_least_fp32(boxes.detach()), _at_least_fp32(scores.detach())
    if native.serves(boxes.device.type):
        keep, count = torch.ops.detcore.nms_padded(boxes, scores, groups, valid, iou_threshold, max_keep)
        return keep, count
    alive = torch.ones_like(scores, dtype=torch.bool) if valid is None else valid
    if boxes.is_cuda:
        return nms_padded_reference(boxes, scores, groups, iou_threshold, max_keep, alive)
    kept = []
    for image, (image_scores, image_alive) in enumerate(zip(scores, alive, strict=True)):
        order = image_scores.masked_fill(~image_alive, -torch.inf).argsort(descending=True, stable=True)
        order = order[image_alive[order]]
        for stop in (2 * max_keep, len(order)):  # the kept of the best 2 x max_keep are usually enough
            best = order[:stop]
            group = None if groups is None else groups[image, best]
            survivors = best[_nms_of_sorted(boxes[image, best], group, iou_threshold)]
            if len(survivors) >= max_keep or stop >= len(order):
                break
        kept.append(survivors)
    return pad_kept(kept, max_keep, device=boxes.device)


def nms_padded_reference(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float, max_keep: int, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """`nms_padded` by its definition, in tensor operations alone. Takes (B, N, N) bytes."""
    return suppress_padded(boxes, scores, groups, max_keep, valid, lambda image: _iou(image, image) > iou_threshold)


def _nms_of_sorted(boxes_xyxy: Tensor, groups: Tensor | None, iou_threshold: float) -> Tensor:
    """Ranks of the survivors, ascending, of boxes already sorted by falling score."""
    falling = -torch.arange(len(boxes_xyxy), dtype=boxes_xyxy.dtype)
    if groups is None:
        kept: Tensor = torchvision.ops.nms(boxes_xyxy, falling, iou_threshold)
        return kept
    # Group by group: the cost is the sum of squares, and no offset added to the coordinates rounds them.
    by_group = groups.argsort(stable=True)
    starts = (groups[by_group].diff() != 0).nonzero()[:, 0] + 1
    members = by_group.tensor_split(starts.tolist())
    survivors = [m[torchvision.ops.nms(boxes_xyxy[m], falling[: len(m)], iou_threshold)] for m in members]
    return torch.cat(survivors).sort().values


def _iou(a: Tensor, b: Tensor) -> Tensor:
    """(N, 4), (M, 4) -> (N, M); NaN where a coordinate is not finite, or where both boxes are empty."""
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    width = torch.minimum(a[:, None, 2], b[:, 2]).sub_(torch.maximum(a[:, None, 0], b[:, 0])).clamp_(min=0)
    height = torch.minimum(a[:, None, 3], b[:, 3]).sub_(torch.maximum(a[:, None, 1], b[:, 1])).clamp_(min=0)
    intersection = width.mul_(height)
    return intersection / (area_a[:, None] + area_b - intersection)


def _at_least_fp32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


declare_suppression("nms")
