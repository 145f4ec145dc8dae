"""Losses of the second stage: Fast R-CNN, arXiv:1504.08083, section 2.3."""

import torch
import torch.nn.functional as F
from torch import Tensor

from detcore.losses.normalizer import global_mean_divisor
from detcore.structures.boxes import at_least_float32


def box_head_losses(
    *,
    class_losses: Tensor,
    sampled: Tensor,
    box_losses: Tensor,
    positive: Tensor,
) -> dict[str, Tensor]:
    """Class and box losses, both divided by the number of sampled proposals, negatives included.

    Args:
        class_losses, sampled: (B, K) float, of `softmax_class_losses` or `sigmoid_class_losses`, and bool.
        box_losses, positive: (B, P) float, of `box_loss`, and bool, for the slots that may be positive.

    Returns:
        loss_cls, loss_box_reg: 0-dim.
    """
    divisor = global_mean_divisor(sampled.sum().to(class_losses.dtype))
    return {
        "loss_cls": (class_losses * sampled).sum() / divisor,
        "loss_box_reg": (box_losses * positive).sum() / divisor,
    }


def softmax_class_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each region: (B, K, C + 1), the background last, and (B, K) int64 in [0, C] -> (B, K)."""
    entropy = F.cross_entropy(at_least_float32(logits).flatten(0, 1), labels.flatten(), reduction="none")
    return entropy.view(labels.shape)


def sigmoid_class_losses(logits: Tensor, labels: Tensor, classes: Tensor | None) -> Tensor:
    """Binary cross-entropy of each region, summed over the classes: a class for itself, the background for none.

    Args:
        logits: (B, K, C + 1); the last, the background's, takes no part.
        labels: (B, K) int64 in [0, C].
        classes: (B, C) bool, those that count in an image (see `federated_classes`); None means all.

    Returns:
        (B, K).
    """
    logits = at_least_float32(logits)
    logits = logits[..., :-1]
    targets = labels[..., None] == torch.arange(logits.shape[-1], device=labels.device)
    entropy = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return (entropy if classes is None else entropy * classes[:, None]).sum(dim=-1)
