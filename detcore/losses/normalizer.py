"""The divisor that makes losses independent of how a global batch is spread over ranks."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


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
    if num_ranks() > 1:
        dist.all_reduce(total)
    return torch.clamp(total, min=1.0) / num_ranks()


def num_ranks() -> int:
    """Of torch.distributed; 1 without it."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class MovingDivisor(nn.Module):
    """`global_mean_divisor` of a moving average of the count: steadier than the count where few anchors are positive.

    The average is over all ranks and a buffer, so a resumed training goes on with it. Out of training mode it neither
    changes nor is used: a validation loss does not depend on what was trained on before.

    Args:
        initial: the average before the first step.
        momentum: how much of it a step keeps.
    """

    average: Tensor

    def __init__(self, *, initial: float, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("average", torch.tensor(initial))

    @torch.no_grad()
    def forward(self, count: Tensor) -> Tensor:
        """As `global_mean_divisor`; in training mode it takes the count into the average first."""
        divisor = global_mean_divisor(count)
        if not self.training:
            return divisor
        average = self.momentum * self.average + (1.0 - self.momentum) * divisor * num_ranks()
        self.average.copy_(average)
        return average.to(count.dtype) / num_ranks()
