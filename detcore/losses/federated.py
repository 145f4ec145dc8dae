"""Which classes an image's loss looks at, where annotators looked for a part of them alone.

Probabilistic two-stage detection, arXiv:2103.07461: the federated loss of its experiments on LVIS.
"""

import torch
from torch import Tensor


def federated_classes(
    labels: Tensor, sampled: Tensor, *, weights: Tensor, keys: Tensor, num_classes_per_image: int
) -> Tensor:
    """The classes that an image's regions have, and others drawn at random until there are enough.

    The others are drawn without replacement, each next one in proportion to its weight among those left: the lowest
    -log(key) / weight win (Efraimidis and Spirakis 2006). The background counts as one of the classes where a region
    has it. More classes than asked for are taken only if regions have more.

    Args:
        labels, sampled: (B, K) int64 in [0, C], where C is the background, and bool: the regions.
        weights: (C,), at least 0; a class of weight 0 is never drawn.
        keys: (B, C) uniform in [0, 1).
        num_classes_per_image: how many are wanted.

    Returns:
        (B, C) bool.
    """
    num_classes = weights.shape[0]
    background = (sampled & (labels == num_classes)).any(dim=1, keepdim=True)
    present = torch.zeros((len(labels), num_classes + 1), dtype=torch.bool, device=labels.device)
    present = present.scatter(1, torch.where(sampled, labels, num_classes), True)[:, :-1]
    # Half a step above 0, so that the logarithm is finite. A weight of 0 gives infinity.
    waits = -(keys + 2.0**-25).log() / weights
    waits = torch.where(present, -1.0, waits)
    earliest, index = waits.topk(min(num_classes_per_image, num_classes), dim=1, largest=False)
    slots = torch.arange(index.shape[1], device=index.device) < num_classes_per_image - background.long()
    return present.scatter(1, index, slots & earliest.isfinite()) | present
