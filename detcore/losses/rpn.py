"""Losses of the region proposal network: Faster R-CNN, arXiv:1506.01497, eq. 1."""

import torch.nn.functional as F
from torch import Tensor

from detcore.losses.normalizer import global_mean_divisor
from detcore.losses.regression import smooth_l1
from detcore.structures.boxes import at_least_float32


def rpn_losses(
    *,
    logits: Tensor,
    positive: Tensor,
    sampled: Tensor,
    offsets: Tensor,
    target_offsets: Tensor,
    offsets_weight: Tensor,
    num_images: Tensor,
    samples_per_image: int,
    beta: float,
) -> dict[str, Tensor]:
    """Objectness and box losses over the sampled anchors, both divided by samples_per_image times the images.

    Args:
        logits, positive, sampled: (B, K) float, bool and bool: the anchors' objectness, what it should be, which count.
        offsets, target_offsets, offsets_weight: (B, P, 4), (B, P, 4) and (B, P) bool: of the positive anchors.
        num_images: 0-dim, images of this rank that are no padding.
        samples_per_image: anchors that the sampler was asked for in each image.
        beta: of `smooth_l1`.

    Returns:
        loss_rpn_cls, loss_rpn_loc: 0-dim.
    """
    logits, offsets = at_least_float32(logits), at_least_float32(offsets)
    divisor = global_mean_divisor(num_images.to(logits.dtype)) * samples_per_image
    objectness = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    boxes = smooth_l1(offsets, target_offsets, beta=beta)
    return {
        "loss_rpn_cls": (objectness * sampled).sum() / divisor,
        "loss_rpn_loc": (boxes * offsets_weight[..., None]).sum() / divisor,
    }
