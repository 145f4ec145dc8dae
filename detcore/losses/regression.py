"""Losses of boxes: of their offsets, or of their overlap with the target."""

from typing import Literal, Protocol

import torch
from torch import Tensor

from detcore.ops import ciou_loss, diou_loss, giou_loss
from detcore.structures.boxes import at_least_float32

BoxLoss = Literal["smooth_l1", "giou", "diou", "ciou"]
_OVERLAP_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


class Coder(Protocol):
    """Turns boxes into offsets from reference boxes and back, as `BoxCoder` does."""

    def encode(self, references: Tensor, boxes: Tensor, /) -> Tensor: ...

    def decode(self, references: Tensor, offsets: Tensor, /) -> Tensor: ...


def box_loss(
    offsets: Tensor, references: Tensor, targets: Tensor, *, coder: Coder, kind: BoxLoss, beta: float
) -> Tensor:
    """The loss of each box, unreduced, for any detector that predicts offsets from reference boxes.

    Args:
        offsets: (..., 4) predicted, of any float dtype; computed in float32 at least.
        references, targets: (..., 4) xyxy: what the offsets are from, and the boxes that they should give.
        coder: of the offsets.
        kind: 'smooth_l1' of the offsets, summed over the four; or 'giou' (arXiv:1902.09630), 'diou' or 'ciou'
            (arXiv:1911.08287) of the decoded boxes. With the smooth L1 alone, boxes may have another number of
            coordinates than four.
        beta: of `smooth_l1`.

    Returns:
        (...) losses.
    """
    offsets = at_least_float32(offsets)
    if kind == "smooth_l1":
        return smooth_l1(offsets, coder.encode(references, targets), beta=beta).sum(dim=-1)
    return _OVERLAP_LOSSES[kind](coder.decode(references, offsets), targets)


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
