"""Losses of box offsets."""

import torch
from torch import Tensor


def smooth_l1(predictions: Tensor, targets: Tensor, *, beta: float) -> Tensor:
    """Fast R-CNN's robust loss (arXiv:1504.08083, eq. 3), unreduced: quadratic below `beta`, linear above.

    Args:
        predictions, targets: one shape.
        beta: where the two parts meet; 0 is the plain absolute difference.
    """
    difference = (predictions - targets).abs()
    if beta == 0.0:
        return difference
    return torch.where(difference < beta, 0.5 * difference.square() / beta, difference - 0.5 * beta)
