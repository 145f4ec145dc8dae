"""Drawing a balanced set of training samples, at random but reproducibly, into slots whose number is fixed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from detcore.structures.batch import TensorStruct

NEVER = -1.0
"""Below every key of a candidate that may be drawn."""


@dataclass(frozen=True)
class Samples(TensorStruct):
    """Candidates that were drawn, positives first.

    Attributes:
        indices: (B, K) int64 into the candidates; 0 where a slot stayed empty.
        positive: (B, K) bool.
        valid: (B, K) bool, slots that hold a sample.
        num_positive_slots: no positive lies at or behind this slot.
    """

    indices: Tensor
    positive: Tensor
    valid: Tensor
    num_positive_slots: int


def sample_balanced(status: Tensor, keys: Tensor, *, num_samples: int, positive_fraction: float) -> Samples:
    """Up to `num_samples * positive_fraction` positives of each image and negatives to fill up, those of highest key.

    Where more are asked for than there are candidates, all are taken.

    Args:
        status: (B, N) int8: 1 positive, 0 negative, -1 neither.
        keys: (B, N) float in [0, 1).
        num_samples: in each image.
        positive_fraction: of them, at most.

    Returns:
        Samples of K = min(num_samples, N) slots.
    """
    candidates = status.shape[1]
    slots = min(num_samples, candidates)
    positive_slots = min(int(num_samples * positive_fraction), candidates)
    positive_keys, positives = torch.where(status == 1, keys, NEVER).topk(positive_slots, dim=1)
    negative_keys, negatives = torch.where(status == 0, keys, NEVER).topk(slots, dim=1)
    num_positive = (positive_keys >= 0).sum(dim=1, keepdim=True)
    num_negative = torch.minimum((negative_keys >= 0).sum(dim=1, keepdim=True), num_samples - num_positive)
    slot = torch.arange(slots, device=status.device)[None]
    positive = slot < num_positive
    valid = slot < num_positive + num_negative
    padding = slots - positive_slots
    from_positives = torch.cat((positives, positives.new_zeros(len(positives), padding)), dim=1)
    from_negatives = negatives.gather(1, (slot - num_positive).clamp(min=0))
    indices = torch.where(positive, from_positives, from_negatives)
    return Samples(torch.where(valid, indices, 0), positive, valid, positive_slots)
