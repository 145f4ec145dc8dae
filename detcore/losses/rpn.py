"""Losses of the region proposal network: Faster R-CNN, arXiv:1506.01497, eq. 1."""

import torch.nn.functional as F
from torch import Tensor

from detcore.losses.normalizer import global_mean_divisor
from detcore.structures.boxes import at_least_float32


def rpn_losses(
    *,
    logits: Tensor,
    positive: Tensor,
    sampled: Tensor,
    box_losses: Tensor,
    box_counts: Tensor,
    num_images: Tensor,
    samples_per_image: int,
) -> dict[str, Tensor]:
    """Objectness and box losses over the sampled anchors, both divided by samples_per_image times the images.

    Args:
        logits, positive, sampled: (B, K) float, bool and bool: the anchors' objectness, what it should be, which count.
        box_losses, box_counts: (B, P) float and bool: of the positive anchors' boxes (see `box_loss`), which count.
        num_images: 0-dim, images of this rank that are no padding.
        samples_per_image: anchors that the sampler was asked for in each image.

    Returns:
        loss_rpn_cls, loss_rpn_loc: 0-dim.
    """
    logits = at_least_float32(logits)
    divisor = global_mean_divisor(num_images.to(logits.dtype)) * samples_per_image
    objectness = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    return {
        "loss_rpn_cls": (objectness * sampled).sum() / divisor,
        "loss_rpn_loc": (box_losses * box_counts).sum() / divisor,
    }
