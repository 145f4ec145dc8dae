"""Losses of single predictions, unreduced; none of them looks at its values to decide what to do."""

from typing import Any

import torch
from torch import Tensor

from detcore.ops import native


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., Focal Loss for Dense Object Detection, 2017, equation 5) of independent classes.

    Args:
        logits: any shape, float; bf16 and fp16 are read as they are and computed in fp32.
        targets: the same shape, in [0, 1], of any dtype.
        alpha: weight of the positives, 1 - alpha that of the negatives; negative for no weights.
        gamma: focus on the hard ones; 0 is the binary cross-entropy.

    Returns:
        The loss of each element, float32 or float64. Its second derivatives raise NotImplementedError, unless the
        targets have a gradient too: then torch's own operators are used.
    """
    if logits.device != targets.device:
        raise ValueError(f"sigmoid_focal_loss: logits are on {logits.device}, targets on {targets.device}")
    if native.serves(logits.device.type) and logits.shape == targets.shape and not targets.requires_grad:
        logits = logits if logits.is_floating_point() else logits.float()
        if targets.dtype != logits.dtype:
            targets = targets.to(accumulator(logits.dtype))
        loss: Tensor = torch.ops.detcore.sigmoid_focal_loss(logits, targets, alpha, gamma)
        return loss
    return sigmoid_focal_loss_reference(_at_least_fp32(logits), _at_least_fp32(targets), alpha, gamma)


def sigmoid_focal_loss_reference(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """`sigmoid_focal_loss` in torch's own operators, differentiable twice, and in the targets too."""
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    # 1 - p_t as a sum of two sigmoids: exact where p rounds to 1.
    miss = torch.sigmoid(logits) * (1 - targets) + torch.sigmoid(-logits) * targets
    loss = cross_entropy * miss**gamma
    return loss * (alpha * targets + (1 - alpha) * (1 - targets)) if alpha >= 0 else loss


def _at_least_fp32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """What the losses compute in, and return."""
    return torch.promote_types(dtype, torch.float32)


def no_second_derivative(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
    """The backward of a backward."""
    raise NotImplementedError("the native losses have no second derivatives; use the references in detcore.ops")


def _fake(logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape, dtype=accumulator(logits.dtype))


def _fake_backward(grad: Tensor, logits: Tensor, *_: Any) -> Tensor:
    return logits.new_empty(logits.shape)


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
    backward=no_second_derivative,
)
