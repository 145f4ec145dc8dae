"""Losses of single predictions, unreduced; none of them looks at its values to decide what to do."""

import math
from typing import Any

import torch
from torch import Tensor

from detcore.ops import native


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., Focal Loss for Dense Object Detection, 2017, equation 5) of independent classes.

    Args:
        logits: any shape, float; bf16 and fp16 are computed in fp32.
        targets: the same shape, in [0, 1].
        alpha: weight of the positives, 1 - alpha that of the negatives; negative for no weights.
        gamma: focus on the hard ones; 0 is the binary cross-entropy.

    Returns:
        The loss of each element, float32 or float64.
    """
    logits, targets = _at_least_fp32(logits), _at_least_fp32(targets)
    if native.serves(logits.device.type) and logits.shape == targets.shape and not targets.requires_grad:
        loss: Tensor = torch.ops.detcore.sigmoid_focal_loss(logits, targets.to(logits.dtype), alpha, gamma)
        return loss
    return sigmoid_focal_loss_reference(logits, targets, alpha, gamma)


def sigmoid_focal_loss_reference(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """`sigmoid_focal_loss` in torch's own operators, differentiable twice, and in the targets too."""
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    # 1 - p_t as a sum of two sigmoids: exact where p rounds to 1.
    miss = torch.sigmoid(logits) * (1 - targets) + torch.sigmoid(-logits) * targets
    loss = cross_entropy * miss**gamma
    return loss * (alpha * targets + (1 - alpha) * (1 - targets)) if alpha >= 0 else loss


def giou_loss(boxes1: Tensor, boxes2: Tensor, *, eps: float = 1e-7) -> Tensor:
    """1 - GIoU (Rezatofighi et al. 2019) of matched boxes (..., 4), (x1, y1, x2, y2) -> (...), float32 or float64.

    A side with x2 < x1 has length 0.
    """
    iou, union, hull = _overlap(_at_least_fp32(boxes1), _at_least_fp32(boxes2), eps)
    area = hull[..., 0] * hull[..., 1]
    return 1 - iou + (area - union) / (area + eps)


def diou_loss(boxes1: Tensor, boxes2: Tensor, *, eps: float = 1e-7) -> Tensor:
    """1 - IoU + (distance of the centres / diagonal of the hull)^2 (Zheng et al. 2020); shapes as in `giou_loss`."""
    boxes1, boxes2 = _at_least_fp32(boxes1), _at_least_fp32(boxes2)
    iou, _, hull = _overlap(boxes1, boxes2, eps)
    return 1 - iou + _centre_distance(boxes1, boxes2, hull, eps)


def ciou_loss(boxes1: Tensor, boxes2: Tensor, *, eps: float = 1e-7) -> Tensor:
    """`diou_loss` and a term for the difference of aspect ratios (Zheng et al. 2020, equation 10).

    As in the paper, the weight of that term takes no part in the gradient.
    """
    boxes1, boxes2 = _at_least_fp32(boxes1), _at_least_fp32(boxes2)
    iou, _, hull = _overlap(boxes1, boxes2, eps)
    slant1, slant2 = (torch.atan2(*(_sides(boxes).clamp(min=eps).unbind(-1))) for boxes in (boxes1, boxes2))
    difference = (slant2 - slant1).square() * (4 / math.pi**2)
    weight = (difference / (1 - iou + difference + eps)).detach()
    return 1 - iou + _centre_distance(boxes1, boxes2, hull, eps) + weight * difference


def _overlap(boxes1: Tensor, boxes2: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """IoU (...), area of the union (...), sides of the smallest box around both (..., 2)."""
    low, high = torch.maximum(boxes1[..., :2], boxes2[..., :2]), torch.minimum(boxes1[..., 2:], boxes2[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    union = _sides(boxes1).prod(-1) + _sides(boxes2).prod(-1) - intersection
    low, high = torch.minimum(boxes1[..., :2], boxes2[..., :2]), torch.maximum(boxes1[..., 2:], boxes2[..., 2:])
    return intersection / (union + eps), union, (high - low).clamp(min=0)


def _sides(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0)


def _centre_distance(boxes1: Tensor, boxes2: Tensor, hull: Tensor, eps: float) -> Tensor:
    offset = (boxes1[..., :2] + boxes1[..., 2:] - boxes2[..., :2] - boxes2[..., 2:]) / 2
    return offset.square().sum(-1) / (hull.square().sum(-1) + eps)


def _at_least_fp32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _fake(logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _fake_backward(grad: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    logits, targets, ctx.alpha, ctx.gamma = inputs
    ctx.save_for_backward(logits, targets)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    slope = torch.ops.detcore.sigmoid_focal_loss_backward(grad, *ctx.saved_tensors, ctx.alpha, ctx.gamma)
    return slope, None, None, None


native.define(
    "sigmoid_focal_loss",
    "(Tensor logits, Tensor targets, float alpha, float gamma) -> Tensor",
    _fake,
    save=_save,
    backward=_backward,
)
native.define(
    "sigmoid_focal_loss_backward",
    "(Tensor grad, Tensor logits, Tensor targets, float alpha, float gamma) -> Tensor",
    _fake_backward,
)
