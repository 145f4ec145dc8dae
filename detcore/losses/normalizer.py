"""The divisor that makes losses independent of how a global batch is spread over ranks."""

import torch
import torch.distributed as dist
from torch import Tensor


def global_mean_divisor(count: Tensor) -> Tensor:
    """What a rank divides its summed loss by, so that the mean over ranks is the sum over all / the count over all.

    DDP averages gradients over ranks; with this divisor that average is the gradient of the whole batch's loss. Every
    rank must call it equally often. Without torch.distributed it is the count itself, but at least 1.

    Args:
        count: 0-dim, the rank's own count; float, so that the result has the loss's dtype.

    Returns:
        0-dim, max(count over all ranks, 1) / number of ranks. No gradient.
    """
    total = count.detach().clone()
    ranks = 1
    if dist.is_available() and dist.is_initialized():
        ranks = dist.get_world_size()
        dist.all_reduce(total)
    return torch.clamp(total, min=1.0) / ranks
