"""Rotated boxes: (cx, cy, w, h, angle), the angle in degrees, counter-clockwise as one sees the image (y points down).

A box with a non-finite number, or whose width or height is not above 0, has IoU 0 with everything. IoU is computed in
float64 whatever the inputs are. Less than 1e-9 counts as 0: it is what rounding leaves of boxes that do not meet.
Suppression compares the IoU, rounded to float32, with the threshold, rounded to float32: boxes that were made to have
just the threshold's IoU survive, and the CPU and the GPU agree on the side of it.
"""

import torch
from torch import Tensor

from detcore.ops import native
from detcore.ops.greedy import declare_suppression, suppress_padded
from detcore.ops.shapes import expect, expect_integers

_NO_IOU = 1e-9
"""Where the two boxes share no more of their union, rounding may be all that they share."""
_CPU_PAIRS, _GPU_PAIRS = 2**14, 2**22
"""Pairs computed at once: what a CPU's cache holds; on a GPU few launches, in bounded memory."""


def box_iou_rotated(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every pair.

    Args:
        a: (N, 5) float.
        b: (M, 5) float.

    Returns:
        (N, M), float64 if a is, else float32.
    """
    expect("box_iou_rotated", a=(a, "N 5"), b=(b, "M 5"))
    if native.serves(a.device.type):
        overlap: Tensor = torch.ops.detcore.box_iou_rotated(a.detach(), b.detach())
        return overlap
    return box_iou_rotated_reference(a, b)


def box_iou_rotated_reference(a: Tensor, b: Tensor) -> Tensor:
    """`box_iou_rotated` in torch's own operators."""
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    a, b = a.detach().double(), b.detach().double()
    out = torch.zeros((len(a), len(b)), dtype=dtype, device=a.device)
    if a.is_cuda:
        step = max(1, _GPU_PAIRS // max(1, len(b)))
        for row in range(0, len(a), step):
            out[row : row + step] = _pair_iou(a[row : row + step, None], b)
        return out
    # Only boxes whose circumscribed circles touch can meet.
    reach = (torch.hypot(a[:, 2], a[:, 3])[:, None] + torch.hypot(b[:, 2], b[:, 3])) / 2
    near = torch.hypot(a[:, None, 0] - b[:, 0], a[:, None, 1] - b[:, 1]) <= reach
    pairs = near.nonzero()
    for first in range(0, len(pairs), _CPU_PAIRS):
        i, j = pairs[first : first + _CPU_PAIRS].unbind(1)
        out[i, j] = _pair_iou(a[i], b[j]).to(dtype)
    return out


def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Indices (K,) int64 of the boxes (N, 5) that survive, by falling score (N,); suppression strictly above the
    threshold. On a GPU the call synchronises once, at its end.
    """
    return batched_nms_rotated(boxes, scores, None, iou_threshold)


def batched_nms_rotated(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float) -> Tensor:
    """`nms_rotated` within each group (N,) integer: boxes of different groups do not suppress each other."""
    expect("nms_rotated", boxes=(boxes, "N 5"), scores=(scores, "N"), groups=(groups, "N"))
    _check("nms_rotated", groups, iou_threshold)
    if native.serves(boxes.device.type):
        kept: Tensor = torch.ops.detcore.nms_rotated(boxes.detach(), scores.detach(), groups, iou_threshold)
        return kept
    group = None if groups is None else groups[None]
    keep, count = nms_rotated_padded(boxes[None], scores[None], group, iou_threshold, len(boxes))
    return keep[0, : int(count)]


def nms_rotated_padded(
    boxes: Tensor,
    scores: Tensor,
    groups: Tensor | None,
    iou_threshold: float,
    max_keep: int,
    *,
    valid: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`nms_padded` for rotated boxes (B, N, 5): a whole batch, an output of fixed size, no synchronisation on a GPU.

    Args and returns are those of `nms_padded`.
    """
    expect(
        "nms_rotated_padded",
        boxes=(boxes, "B N 5"),
        scores=(scores, "B N"),
        groups=(groups, "B N"),
        valid=(valid, "B N"),
    )
    _check("nms_rotated_padded", groups, iou_threshold)
    if max_keep < 0:
        raise ValueError(f"nms_rotated_padded: max_keep {max_keep} must not be negative")
    if native.serves(boxes.device.type):
        keep, count = torch.ops.detcore.nms_rotated_padded(
            boxes.detach(), scores.detach(), groups, valid, iou_threshold, max_keep
        )
        return keep, count
    if valid is None:
        valid = torch.ones_like(scores, dtype=torch.bool)
    return nms_rotated_padded_reference(boxes, scores, groups, iou_threshold, max_keep, valid)


def _check(operator: str, groups: Tensor | None, iou_threshold: float) -> None:
    expect_integers(operator, groups=groups)
    if not iou_threshold >= 0:  # boxes whose circles do not meet are not even looked at
        raise ValueError(f"{operator}: iou_threshold {iou_threshold} must not be negative")


def nms_rotated_padded_reference(
    boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float, max_keep: int, valid: Tensor
) -> tuple[Tensor, Tensor]:
    """`nms_rotated_padded` by its definition, in tensor operations alone. Takes (B, N, N) bytes."""
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return suppress_padded(
        boxes.detach(),
        scores.detach(),
        groups,
        max_keep,
        valid,
        lambda image: box_iou_rotated_reference(image.double(), image.double()).float() > threshold,
    )


def _pair_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes (..., 5) against boxes (..., 5) that broadcast, in their dtype."""
    usable = ((box.isfinite().all(dim=-1)) & (box[..., 2] > 0) & (box[..., 3] > 0) for box in (a, b))
    intersection = _intersection(a, b)
    union = a[..., 2] * a[..., 3] + b[..., 2] * b[..., 3] - intersection
    meet = next(usable) & next(usable) & (intersection > _NO_IOU * union)
    return torch.where(meet, (intersection / union).clamp(0, 1), 0)


def _intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area that two boxes share.

    In b's own frame b is |x| <= w/2, |y| <= h/2. By Green's theorem with the field [|x| <= w/2] clamp(y, -h/2, h/2) dx,
    whose curl is 1 inside b and 0 outside, the area is its integral along the edges of a. Nothing is sorted or
    clipped, and the result depends continuously on the boxes: coinciding edges are no special case.
    """
    x, y = _corners_in_frame_of(b, a)
    half_w, half_h = b[..., 2:3] / 2, b[..., 3:4] / 2
    run, rise = x.roll(-1, -1) - x, y.roll(-1, -1) - y
    # The part of each edge with |x| <= w/2, as shares of its length.
    begin, end = (_share(bound - x, run) for bound in (-half_w, half_w))
    begin, end = torch.where(run < 0, end, begin), torch.where(run < 0, begin, end)
    width = torch.minimum(torch.maximum(x + run, -half_w), half_w) - torch.minimum(torch.maximum(x, -half_w), half_w)
    first, slope = y + begin * rise, (end - begin) * rise
    # The mean of clamp(first + t slope) over t in 0..1: a line with two kinks, where it meets -h/2 and h/2.
    kinks = torch.stack([_share(bound - first, slope) for bound in (-half_h, half_h)])
    knots = (torch.zeros_like(first), kinks.amin(0), kinks.amax(0), torch.ones_like(first))
    heights = [torch.minimum(torch.maximum(first + t * slope, -half_h), half_h) for t in knots]
    mean = sum((knots[k + 1] - knots[k]) * (heights[k] + heights[k + 1]) / 2 for k in range(3))
    return (width * mean).sum(-1).abs()


def _corners_in_frame_of(frame: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """x and y (..., 4) of the corners, in order, in the coordinates in which frame is centred and upright."""
    dx, dy = box[..., 0] - frame[..., 0], box[..., 1] - frame[..., 1]
    (own_cos, own_sin), (box_cos, box_sin) = _cos_sin(frame[..., 4]), _cos_sin(box[..., 4])
    cx, cy = dx * own_cos - dy * own_sin, dx * own_sin + dy * own_cos
    turn_cos = (box_cos * own_cos + box_sin * own_sin)[..., None]
    turn_sin = (box_sin * own_cos - box_cos * own_sin)[..., None]
    # Not a product with a tensor of signs: to copy that to a GPU would make the host wait.
    half_w, half_h = box[..., 2:3] / 2, box[..., 3:4] / 2
    u = torch.cat([half_w, -half_w, -half_w, half_w], dim=-1)
    v = torch.cat([half_h, half_h, -half_h, -half_h], dim=-1)
    return cx[..., None] + u * turn_cos + v * turn_sin, cy[..., None] - u * turn_sin + v * turn_cos


def _cos_sin(angle_deg: Tensor) -> tuple[Tensor, Tensor]:
    """Without error at quarter turns, so that upright boxes are upright."""
    quarters = (angle_deg / 90).round()
    rest = torch.deg2rad(angle_deg - quarters * 90)
    cos, sin = rest.cos(), rest.sin()
    turn = quarters.remainder(4)
    swapped = (turn == 1) | (turn == 3)
    turned_cos, turned_sin = torch.where(swapped, sin, cos), torch.where(swapped, cos, sin)
    return (
        torch.where((turn == 1) | (turn == 2), -turned_cos, turned_cos),
        torch.where((turn == 2) | (turn == 3), -turned_sin, turned_sin),
    )


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole in 0..1; where the whole is 0 any share will do, the function along it is constant."""
    return (part / torch.where(whole.abs() < 1e-200, 1, whole)).clamp(0, 1)


def _fake_iou(a: Tensor, b: Tensor) -> Tensor:
    dtype = torch.float64 if a.dtype == torch.float64 else torch.float32
    return a.new_empty((a.shape[0], b.shape[0]), dtype=dtype)


native.define("box_iou_rotated", "(Tensor a, Tensor b) -> Tensor", _fake_iou)
declare_suppression("nms_rotated")
