"""Losses of detectors that predict at every place: RetinaNet, arXiv:1708.02002; FCOS, arXiv:1904.01355."""

import torch
from torch import Tensor

from detcore.ops import sigmoid_focal_loss


def focal_class_loss(*, logits: Tensor, labels: Tensor, counted: Tensor, alpha: float, gamma: float) -> Tensor:
    """The focal loss of all classes, summed over the anchors that count.

    Args:
        logits: (B, N, C).
        labels: (B, N) int64; C for background.
        counted: (B, N) bool.
        alpha, gamma: see `sigmoid_focal_loss`.

    Returns:
        0-dim, float32 or float64.
    """
    classes = torch.arange(logits.shape[-1], device=logits.device)
    # Of the logits' dtype: the operator reads it as it is, and makes no wider copy.
    targets = (labels[..., None] == classes).to(logits.dtype)
    loss = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    return torch.where(counted[..., None], loss, 0.0).sum()
