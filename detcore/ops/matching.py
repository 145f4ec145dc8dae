"""Which ground truth each anchor is trained on."""

from typing import Any

import torch
from torch import Tensor

from detcore.ops import native
from detcore.ops.shapes import expect

POSITIVE, NEGATIVE, IGNORED = 1, 0, -1

_CPU_CHUNK, _GPU_CHUNK = 2**15, 2**25
"""IoUs made at once: what a CPU's cache holds; on a GPU few launches, in bounded memory."""


def match_anchors(
    anchors: Tensor,
    gt_boxes: Tensor,
    valid: Tensor,
    thresholds: tuple[float, float],
    allow_low_quality: bool,
) -> tuple[Tensor, Tensor]:
    """The best ground truth of each anchor, and whether the anchor is positive, negative or ignored.

    The rules of Faster R-CNN (Ren et al. 2015, section 3.1.2) and RetinaNet (Lin et al. 2017, section 4): positive from
    the upper threshold on, negative below the lower one, ignored between. With `allow_low_quality`, an anchor whose IoU
    with some ground truth is the highest that this ground truth reaches (and above 0) is positive too; it keeps its
    own best ground truth. No N x M matrix is made; on a GPU the host reads nothing back.

    Args:
        anchors: (N, 4) for all images or (B, N, 4), (x1, y1, x2, y2).
        gt_boxes: (B, M, 4).
        valid: (B, M) bool, the real rows of gt_boxes.
        thresholds: (negative, positive), negative <= positive.
        allow_low_quality: see above.

    Returns:
        matched: (B, N) int64, index of the ground truth with the highest IoU (the lower of equals); 0 if none is valid.
        status: (B, N) int8, 1 positive, 0 negative, -1 ignored. All 0 in an image without valid ground truth.
        A box with a non-finite coordinate has IoU 0 with everything.

    Raises:
        ValueError: if the thresholds are not in order.
    """
    negative, positive = thresholds
    if not negative <= positive:
        raise ValueError(f"thresholds ({negative}, {positive}): the negative one must not exceed the positive one")
    anchors = anchors.detach()[None] if anchors.dim() == 2 else anchors.detach()
    batch = "B" if anchors.shape[0] != 1 else "_"
    expect("match_anchors", gt_boxes=(gt_boxes, "B M 4"), valid=(valid, "B M"), anchors=(anchors, f"{batch} N 4"))
    dtype = torch.promote_types(torch.promote_types(anchors.dtype, gt_boxes.dtype), torch.float32)
    anchors, gt_boxes = anchors.to(dtype), gt_boxes.detach().to(dtype)
    if native.serves(anchors.device.type):
        matched, status = torch.ops.detcore.match_anchors(
            anchors, gt_boxes, valid, negative, positive, allow_low_quality
        )
        return matched, status
    return match_anchors_reference(anchors, gt_boxes, valid, thresholds, allow_low_quality)


def match_anchors_reference(
    anchors: Tensor, gt_boxes: Tensor, valid: Tensor, thresholds: tuple[float, float], allow_low_quality: bool
) -> tuple[Tensor, Tensor]:
    """`match_anchors` in torch's own operators; anchors (1 or B, N, 4) of the dtype of gt_boxes, float32 or float64."""
    (negative, positive), dtype = thresholds, anchors.dtype
    shape = (len(gt_boxes), anchors.shape[1])
    best = torch.zeros(shape, dtype=dtype, device=anchors.device)
    matched = torch.zeros(shape, dtype=torch.int64, device=anchors.device)
    low_quality = torch.zeros(shape, dtype=torch.bool, device=anchors.device)
    for first, last in _chunks(valid, anchors.shape[1]):
        iou = _iou_with(anchors, gt_boxes[:, first:last]).masked_fill_(~valid[:, first:last, None], 0)
        if allow_low_quality and shape[1]:
            reached = iou.amax(dim=2, keepdim=True)
            low_quality |= ((iou == reached) & (reached > 0)).any(dim=1)
        chunk_best, chunk_matched = iou.max(dim=1)
        matched = torch.where(chunk_best > best, chunk_matched + first, matched)
        best = torch.maximum(best, chunk_best)
    status = torch.where(best < negative, NEGATIVE, IGNORED).masked_fill_((best >= positive) | low_quality, POSITIVE)
    return matched, status.masked_fill_(~valid.any(dim=1, keepdim=True), NEGATIVE).to(torch.int8)


def _chunks(valid: Tensor, num_anchors: int) -> list[tuple[int, int]]:
    """Ranges of ground truths taken at once."""
    batch, num_gt = valid.shape
    if valid.is_cuda:
        size = max(1, _GPU_CHUNK // max(1, batch * num_anchors))
    else:
        size = max(1, _CPU_CHUNK // max(1, batch * num_anchors))
        if not torch.compiler.is_compiling():  # the padding at the end of every row costs nothing
            num_gt = int(valid.any(dim=0).nonzero().max()) + 1 if bool(valid.any()) else 0
    return [(first, min(first + size, num_gt)) for first in range(0, num_gt, size)]


def _iou_with(anchors: Tensor, gt_boxes: Tensor) -> Tensor:
    """(B or 1, N, 4), (B, M, 4) -> (B, M, N), 0 where the union is empty or not finite."""
    a, g = anchors.unsqueeze(1).unbind(-1), gt_boxes.unsqueeze(2).unbind(-1)
    width = torch.minimum(a[2], g[2]).sub_(torch.maximum(a[0], g[0])).clamp_(min=0)
    height = torch.minimum(a[3], g[3]).sub_(torch.maximum(a[1], g[1])).clamp_(min=0)
    intersection = width.mul_(height)
    union = ((a[2] - a[0]) * (a[3] - a[1]) + (g[2] - g[0]) * (g[3] - g[1])).sub(intersection)
    return torch.where(union > 0, intersection / union, 0)


def _fake(anchors: Tensor, gt_boxes: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    shape = (gt_boxes.shape[0], anchors.shape[1])
    return anchors.new_empty(shape, dtype=torch.int64), anchors.new_empty(shape, dtype=torch.int8)


native.define(
    "match_anchors",
    "(Tensor anchors, Tensor gt_boxes, Tensor valid, float negative, float positive, bool allow_low_quality) "
    "-> (Tensor, Tensor)",
    _fake,
)
