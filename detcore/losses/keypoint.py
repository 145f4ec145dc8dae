"""The loss of predicted keypoints: Mask R-CNN, arXiv:1703.06870, section 5."""

import torch.nn.functional as F
from torch import Tensor

from detcore.structures.boxes import at_least_float32


def keypoint_loss(*, logits: Tensor, bins: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy over the pixels of each keypoint's heatmap, as exactly one of them holds it; summed.

    Args:
        logits: (N, K, S, S).
        bins: (N, K) int64, row * S + column of the keypoint's pixel.
        counted: (N, K) bool.

    Returns:
        0-dim, float32 or float64.
    """
    entropy = F.cross_entropy(at_least_float32(logits).flatten(2).flatten(0, 1), bins.flatten(), reduction="none")
    return (entropy * counted.flatten()).sum()
