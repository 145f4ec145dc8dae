"""The greedy selection that every non-maximum suppression ends in, and its fixed-size output."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from detcore.ops import native


def suppress_padded(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor | None,
    max_keep: int,
    valid: Tensor,
    overlaps: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression of a batch in tensor operations alone: no shape and no branch depends on the data.

    Args:
        boxes: (B, N, any).
        scores: (B, N) float.
        groups: (B, N) integer or None; boxes of different groups do not suppress each other.
        max_keep: boxes kept of an image, at most.
        valid: (B, N) bool.
        overlaps: from one image's boxes (N, any), sorted, to (N, N) bool: whether the pair is too close to keep both.

    Returns:
        keep (B, max_keep) int64, indices into N by falling score and then zeros, and their number (B,) int64.
    """
    order = scores.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    # A stable sort by score alone would leave an invalid box before a valid one whose score is -inf.
    order = order.gather(1, (~valid.gather(1, order)).to(torch.uint8).argsort(dim=1, stable=True))
    batch, num_boxes = order.shape
    suppresses = torch.empty((batch, num_boxes, num_boxes), dtype=torch.bool, device=boxes.device)
    for image in range(batch):
        suppresses[image] = overlaps(boxes[image, order[image]])
    if groups is not None:
        groups = groups.gather(1, order)
        suppresses &= groups[:, :, None] == groups[:, None, :]
    rank, count = greedy_keep(suppresses, valid.gather(1, order), max_keep)
    real = torch.arange(max_keep, device=count.device) < count[:, None]
    return torch.where(real, order.gather(1, rank) if num_boxes else rank, 0), count


def greedy_keep(suppresses: Tensor, alive: Tensor, max_keep: int) -> tuple[Tensor, Tensor]:
    """Takes the first box alive, strikes out those it suppresses, and so on, without a branch on the data.

    Args:
        suppresses: (B, N, N) bool, [b, i, j]: box i, once kept, strikes out box j. Boxes are sorted, the best first.
        alive: (B, N) bool, the boxes that take part.
        max_keep: the number of rounds.

    Returns:
        rank: (B, max_keep) int64, the kept boxes' places in the sorted order; 0 behind the count.
        count: (B,) int64.
    """
    batch, num_boxes = alive.shape
    rank = torch.zeros((batch, max_keep), dtype=torch.int64, device=alive.device)
    count = torch.zeros(batch, dtype=torch.int64, device=alive.device)
    if num_boxes == 0:
        return rank, count
    alive = alive.clone()
    for k in range(min(max_keep, num_boxes)):
        first = alive.to(torch.uint8).argmax(dim=1, keepdim=True)
        found = alive.gather(1, first)
        rank[:, k] = torch.where(found, first, 0)[:, 0]
        count += found[:, 0]
        struck = suppresses.gather(1, first[..., None].expand(-1, -1, num_boxes))[:, 0].scatter(1, first, True)
        alive &= ~(struck & found)
    return rank, count


def pad_kept(kept: Sequence[Tensor], max_keep: int, *, device: torch.device) -> tuple[Tensor, Tensor]:
    """(B, max_keep) int64 and (B,) counts from one tensor of indices an image; what exceeds max_keep is cut off."""
    keep = torch.zeros((len(kept), max_keep), dtype=torch.int64, device=device)
    for row, indices in zip(keep, kept, strict=True):
        row[: len(indices)] = indices[:max_keep]
    count = torch.tensor([min(len(indices), max_keep) for indices in kept], dtype=torch.int64, device=device)
    return keep, count


def declare_suppression(name: str) -> None:
    """Declares the two forms of a native non-maximum suppression, `name` and `name_padded`."""
    native.define(name, "(Tensor boxes, Tensor scores, Tensor? groups, float iou_threshold) -> Tensor", _fake_kept)
    native.define(
        f"{name}_padded",
        "(Tensor boxes, Tensor scores, Tensor? groups, Tensor? valid, float iou_threshold, SymInt max_keep) "
        "-> (Tensor, Tensor)",
        _fake_padded,
    )


def _fake_kept(boxes: Tensor, *_: Any) -> Tensor:
    return boxes.new_empty((torch.library.get_ctx().new_dynamic_size(),), dtype=torch.int64)


def _fake_padded(boxes: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    batch, max_keep = boxes.shape[0], rest[-1]
    return boxes.new_empty((batch, max_keep), dtype=torch.int64), boxes.new_empty((batch,), dtype=torch.int64)
