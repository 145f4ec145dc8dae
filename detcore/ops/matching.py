"""Which ground truth each anchor is trained on."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detcore.ops import native
from detcore.ops.rotated import box_iou_rotated
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
    anchors, gt_boxes = _checked("match_anchors", anchors, gt_boxes, valid, thresholds, 4)
    negative, positive = thresholds
    if native.serves(anchors.device.type):
        matched, status = torch.ops.detcore.match_anchors(
            anchors, gt_boxes, valid, negative, positive, allow_low_quality
        )
        return matched, status
    return match_anchors_reference(anchors, gt_boxes, valid, thresholds, allow_low_quality)


def match_anchors_rotated(
    anchors: Tensor,
    gt_boxes: Tensor,
    valid: Tensor,
    thresholds: tuple[float, float],
    allow_low_quality: bool,
) -> tuple[Tensor, Tensor]:
    """`match_anchors` for rotated boxes, (N, 5) or (B, N, 5) and (B, M, 5), by `box_iou_rotated` in float32; see both.

    Of several anchors that reach a ground truth's highest IoU, the first alone is positive for that: rotated anchors
    tie often, (w, h, angle) and (h, w, angle + 90) are the same, and rounding must not decide how many are positive.

    One image after the other, some ground truths at a time, so that memory stays bounded.
    """
    anchors, gt_boxes = _checked("match_anchors_rotated", anchors, gt_boxes, valid, thresholds, 5)

    def match(image: int) -> tuple[Tensor, Tensor]:
        own, truth, real = anchors[image % len(anchors)], gt_boxes[image], valid[image : image + 1]
        return _match(
            lambda first, last: box_iou_rotated(truth[first:last], own)[None].float(),
            real,
            len(own),
            torch.float32,
            thresholds,
            allow_low_quality,
            first_of_ties=True,
        )

    shape = (len(gt_boxes), anchors.shape[1])
    matches = [match(image) for image in range(len(gt_boxes))]
    if not matches:
        return valid.new_zeros(shape, dtype=torch.int64), valid.new_zeros(shape, dtype=torch.int8)
    matched, status = zip(*matches, strict=True)
    return torch.cat(matched), torch.cat(status)


def _checked(
    operator: str, anchors: Tensor, gt_boxes: Tensor, valid: Tensor, thresholds: tuple[float, float], numbers: int
) -> tuple[Tensor, Tensor]:
    """Anchors (1 or B, N, numbers) and ground truths, of one dtype, without gradient."""
    negative, positive = thresholds
    if not negative <= positive:
        raise ValueError(f"thresholds ({negative}, {positive}): the negative one must not exceed the positive one")
    anchors = anchors.detach()[None] if anchors.dim() == 2 else anchors.detach()
    batch = "B" if anchors.shape[0] != 1 else "_"
    expect(
        operator,
        gt_boxes=(gt_boxes, f"B M {numbers}"),
        valid=(valid, "B M"),
        anchors=(anchors, f"{batch} N {numbers}"),
    )
    dtype = torch.promote_types(torch.promote_types(anchors.dtype, gt_boxes.dtype), torch.float32)
    return anchors.to(dtype), gt_boxes.detach().to(dtype)


def match_anchors_reference(
    anchors: Tensor, gt_boxes: Tensor, valid: Tensor, thresholds: tuple[float, float], allow_low_quality: bool
) -> tuple[Tensor, Tensor]:
    """`match_anchors` in torch's own operators; anchors (1 or B, N, 4) of the dtype of gt_boxes, float32 or float64."""
    return _match(
        lambda first, last: _iou_with(anchors, gt_boxes[:, first:last]),
        valid,
        anchors.shape[1],
        anchors.dtype,
        thresholds,
        allow_low_quality,
    )


def _match(
    iou_with: Callable[[int, int], Tensor],
    valid: Tensor,
    num_anchors: int,
    dtype: torch.dtype,
    thresholds: tuple[float, float],
    allow_low_quality: bool,
    *,
    first_of_ties: bool = False,
) -> tuple[Tensor, Tensor]:
    """Matches by the IoU (B, last - first, N), of `dtype`, of the ground truths first to last with every anchor."""
    negative, positive = thresholds
    shape = (len(valid), num_anchors)
    best = torch.zeros(shape, dtype=dtype, device=valid.device)
    matched = torch.zeros(shape, dtype=torch.int64, device=valid.device)
    low_quality = torch.zeros(shape, dtype=torch.bool, device=valid.device)
    place = torch.arange(num_anchors, device=valid.device)
    for first, last in _chunks(valid, num_anchors):
        iou = iou_with(first, last).masked_fill_(~valid[:, first:last, None], 0)
        if allow_low_quality and num_anchors:
            reached, first_place = iou.max(dim=2, keepdim=True)
            reaching = place == first_place if first_of_ties else iou == reached
            low_quality |= (reaching & (reached > 0)).any(dim=1)
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
