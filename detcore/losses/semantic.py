"""Losses of the classes of pixels."""

import torch
import torch.nn.functional as F
from torch import Tensor

from detcore.losses.normalizer import global_mean_divisor
from detcore.structures.batch import Batch
from detcore.structures.boxes import at_least_float32

IGNORED = 255
"""The class of pixels that do not count."""


def semantic_loss(*, logits: Tensor, batch: Batch, hardest: float = 1.0) -> dict[str, Tensor]:
    """Cross-entropy of every pixel's class, averaged over all pixels that count, or over the hardest alone.

    The logits are enlarged to the size of the targets first, bilinearly.

    Args:
        logits: (B, C, h, w), of a stride that divides the images' height and width.
        batch: with semantic targets; pixels of class 255, padding among them, and rows of no image do not count.
        hardest: below 1, hard pixel mining (DeeperLab, arXiv:1902.05093, section 3.4): each image's mean is over this
            fraction of its content's pixels, those of the highest loss. Pixels that do not count have a loss of 0
            there. The images count alike where they are of one size.

    Returns:
        loss_sem_seg: 0-dim.

    Raises:
        ValueError: if the targets have no semantic map.
    """
    if batch.targets is None or batch.targets.semantic is None:
        raise ValueError("this batch has no semantic targets: take a data set with classes of pixels")
    targets = batch.targets.semantic
    targets = torch.where(batch.real[:, None, None], targets, IGNORED).long()
    logits = F.interpolate(at_least_float32(logits), size=targets.shape[-2:], mode="bilinear", align_corners=False)
    entropy = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    if hardest == 1.0:
        counted = (targets != IGNORED).sum()
    else:
        # How many pixels are taken is known on the device alone; how many at most, here.
        most = int(hardest * targets[0].numel())
        taken = (batch.image_sizes.prod(dim=1).double() * hardest).floor().long() * batch.real
        entropy = entropy.flatten(1).topk(most, dim=1).values
        entropy = entropy * (torch.arange(most, device=entropy.device) < taken[:, None])
        counted = taken.sum()
    return {"loss_sem_seg": entropy.sum() / global_mean_divisor(counted.to(entropy.dtype))}
