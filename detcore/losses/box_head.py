"""Losses of the second stage: Fast R-CNN, arXiv:1504.08083, section 2.3."""

import torch.nn.functional as F
from torch import Tensor

from detcore.losses.normalizer import global_mean_divisor
from detcore.losses.regression import smooth_l1
from detcore.structures.boxes import at_least_float32


def box_head_losses(
    *,
    logits: Tensor,
    labels: Tensor,
    sampled: Tensor,
    offsets: Tensor,
    target_offsets: Tensor,
    positive: Tensor,
    beta: float,
) -> dict[str, Tensor]:
    """Class and box losses, both divided by the number of sampled proposals, negatives included.

    Args:
        logits: (B, K, C + 1), the background last.
        labels, sampled: (B, K) int64 in [0, C] and bool.
        offsets, target_offsets, positive: (B, P, 4), (B, P, 4) and (B, P) bool, for the slots that may be positive; the
            offsets are those of each one's own class.
        beta: of `smooth_l1`.

    Returns:
        loss_cls, loss_box_reg: 0-dim.
    """
    logits, offsets = at_least_float32(logits), at_least_float32(offsets)
    divisor = global_mean_divisor(sampled.sum().to(logits.dtype))
    entropy = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    boxes = smooth_l1(offsets, target_offsets, beta=beta)
    return {
        "loss_cls": (entropy * sampled.flatten()).sum() / divisor,
        "loss_box_reg": (boxes * positive[..., None]).sum() / divisor,
    }
