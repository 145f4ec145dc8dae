"""Losses of matched boxes, unreduced; none of them looks at its values to decide what to do."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from detcore.ops import native
from detcore.ops.losses import accumulator, no_second_derivative

_KINDS = ("giou", "diou", "ciou")


def giou_loss(boxes1: Tensor, boxes2: Tensor, *, eps: float = 1e-7) -> Tensor:
    """1 - GIoU (Rezatofighi et al. 2019) of matched boxes.

    Args:
        boxes1, boxes2: (..., 4), (x1, y1, x2, y2), of shapes that broadcast; bf16 and fp16 are read as they are and
            computed in fp32. A side with x2 < x1 has length 0.
        eps: added to the divisors; above 0.

    Returns:
        (...), float32 or float64. Gradients are finite for finite boxes whose areas the dtype can hold; where
        coordinates are equal they are those of torch's own operators. Second derivatives raise NotImplementedError.
    """
    return _box_loss("giou", giou_loss_reference, boxes1, boxes2, eps)


def diou_loss(boxes1: Tensor, boxes2: Tensor, *, eps: float = 1e-7) -> Tensor:
    """1 - IoU + (distance of the centres / diagonal of the hull)^2 (Zheng et al. 2020); arguments as `giou_loss`."""
    return _box_loss("diou", diou_loss_reference, boxes1, boxes2, eps)


def ciou_loss(boxes1: Tensor, boxes2: Tensor, *, eps: float = 1e-7) -> Tensor:
    """`diou_loss` and a term for the difference of aspect ratios (Zheng et al. 2020, equation 10).

    As in the paper, the weight of that term takes no part in the gradient. Arguments as `giou_loss`.
    """
    return _box_loss("ciou", ciou_loss_reference, boxes1, boxes2, eps)


def _box_loss(
    kind: str, reference: Callable[[Tensor, Tensor, float], Tensor], boxes1: Tensor, boxes2: Tensor, eps: float
) -> Tensor:
    for boxes in (boxes1, boxes2):
        if boxes.dim() == 0 or boxes.shape[-1] != 4:
            raise ValueError(f"{kind}_loss: boxes are {tuple(boxes.shape)}, must be (..., 4)")
    if boxes1.device != boxes2.device:
        raise ValueError(f"{kind}_loss: boxes are on {boxes1.device} and {boxes2.device}")
    dtype = torch.promote_types(boxes1.dtype, boxes2.dtype)
    if boxes1.dtype != boxes2.dtype or not dtype.is_floating_point:
        boxes1, boxes2 = boxes1.to(accumulator(dtype)), boxes2.to(accumulator(dtype))
    if not native.serves(boxes1.device.type):
        return reference(boxes1.to(accumulator(dtype)), boxes2.to(accumulator(dtype)), eps)
    if boxes1.shape != boxes2.shape:
        boxes1, boxes2 = torch.broadcast_tensors(boxes1, boxes2)  # type: ignore[no-untyped-call, unused-ignore]
    loss: Tensor = torch.ops.detcore.box_iou_loss(boxes1, boxes2, _KINDS.index(kind), eps)
    return loss


def giou_loss_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """`giou_loss` in torch's own operators, of boxes of one dtype, float32 or float64; differentiable twice."""
    iou, union, hull = _overlap(boxes1, boxes2, eps)
    area = hull[..., 0] * hull[..., 1]
    return 1 - iou + (area - union) / (area + eps)


def diou_loss_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """`diou_loss` as `giou_loss_reference`."""
    iou, _, hull = _overlap(boxes1, boxes2, eps)
    return 1 - iou + _centre_distance(boxes1, boxes2, hull, eps)


def ciou_loss_reference(boxes1: Tensor, boxes2: Tensor, eps: float) -> Tensor:
    """`ciou_loss` as `giou_loss_reference`."""
    iou, _, hull = _overlap(boxes1, boxes2, eps)
    slant1, slant2 = (torch.atan2(*(_sides(boxes).clamp(min=eps).unbind(-1))) for boxes in (boxes1, boxes2))
    difference = (slant2 - slant1).square() * (4 / math.pi**2)
    weight = (difference / (1 - iou + difference + eps)).detach()
    return 1 - iou + _centre_distance(boxes1, boxes2, hull, eps) + weight * difference


def _overlap(boxes1: Tensor, boxes2: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """IoU (...), area of the union (...), sides of the smallest box around both (..., 2).

    A length of 0 has no gradient, in every version of torch: that of `clamp(min=0)` there depends on it.
    """
    low, high = torch.maximum(boxes1[..., :2], boxes2[..., :2]), torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = (high - low).relu().prod(-1)
    union = _sides(boxes1).prod(-1) + _sides(boxes2).prod(-1) - intersection
    low, high = torch.minimum(boxes1[..., :2], boxes2[..., :2]), torch.maximum(boxes1[..., 2:], boxes2[..., 2:])
    return intersection / (union + eps), union, (high - low).relu()


def _sides(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).relu()


def _centre_distance(boxes1: Tensor, boxes2: Tensor, hull: Tensor, eps: float) -> Tensor:
    offset = (boxes1[..., :2] + boxes1[..., 2:] - boxes2[..., :2] - boxes2[..., 2:]) / 2
    return offset.square().sum(-1) / (hull.square().sum(-1) + eps)


def _fake(boxes1: Tensor, *_: Any) -> Tensor:
    return boxes1.new_empty(boxes1.shape[:-1], dtype=accumulator(boxes1.dtype))


def _fake_backward(
    grad: Tensor, boxes1: Tensor, boxes2: Tensor, kind: int, eps: float, needs1: bool, needs2: bool
) -> tuple[Tensor, Tensor]:
    both = zip((boxes1, boxes2), (needs1, needs2), strict=True)
    first, second = (boxes.new_empty(boxes.shape if needed else (0,)) for boxes, needed in both)
    return first, second


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    boxes1, boxes2, ctx.kind, ctx.eps = inputs
    ctx.save_for_backward(boxes1, boxes2)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    needed = ctx.needs_input_grad[:2]
    grads = torch.ops.detcore.box_iou_loss_backward(grad, *ctx.saved_tensors, ctx.kind, ctx.eps, *needed)
    first, second = (own if needs else None for own, needs in zip(grads, needed, strict=True))
    return first, second, None, None


native.define(
    "box_iou_loss",
    "(Tensor boxes1, Tensor boxes2, int kind, float eps) -> Tensor",
    _fake,
    save=_save,
    backward=_backward,
)
native.define(
    "box_iou_loss_backward",
    "(Tensor grad, Tensor boxes1, Tensor boxes2, int kind, float eps, bool needs1, bool needs2) -> (Tensor, Tensor)",
    _fake_backward,
    backward=no_second_derivative,
)
