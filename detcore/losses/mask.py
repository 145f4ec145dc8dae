"""The loss of predicted masks: Mask R-CNN, arXiv:1703.06870, section 3."""

import torch.nn.functional as F
from torch import Tensor

from detcore.losses.normalizer import global_mean_divisor
from detcore.structures.boxes import at_least_float32


def mask_loss(*, logits: Tensor, targets: Tensor, positive: Tensor) -> dict[str, Tensor]:
    """Binary cross-entropy, averaged over all pixels of all positive regions.

    Args:
        logits: (K, S, S), each at its region's own class.
        targets: (K, S, S) bool.
        positive: (K,) bool, the regions that count.

    Returns:
        loss_mask: 0-dim.
    """
    logits = at_least_float32(logits)
    divisor = global_mean_divisor(positive.sum().to(logits.dtype)) * logits.shape[-2] * logits.shape[-1]
    entropy = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return {"loss_mask": (entropy * positive[:, None, None]).sum() / divisor}
