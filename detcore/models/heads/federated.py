"""The classes that count in an image's loss, drawn by how often the data has them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detcore.losses.federated import federated_classes
from detcore.ops import keyed_uniform
from detcore.structures.batch import Batch

RANDOM_SITE = 10
"""Keys this module's random numbers; every place that draws has its own."""


class FederatedClasses(nn.Module):
    """Of each image, the classes that its regions have and random others; see `federated_classes`.

    Each image has its own draw, as in arXiv:2103.07461, so that losses depend on no batch mates and no ranks.
    (Detectron2 draws once for all images of a GPU, which is the same with one image on each.)

    Args:
        num_classes_per_image: how many are wanted.
        class_counts: how often the data has each class, or None: the module then serves for predicting alone.
        frequency_power: a class is drawn in proportion to its count to this power.
    """

    weights: Tensor | None

    def __init__(
        self, *, num_classes_per_image: int, class_counts: Sequence[float] | None, frequency_power: float
    ) -> None:
        super().__init__()
        self.num_classes_per_image = num_classes_per_image
        weights = None if class_counts is None else torch.tensor(class_counts, dtype=torch.float32) ** frequency_power
        # Made anew from the data or the configuration each time: no part of the weights.
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, labels: Tensor, sampled: Tensor, batch: Batch, *, draw: int) -> Tensor:
        """(B, K) labels and which of them count -> (B, C) bool; draws of one step have different numbers.

        Raises:
            ValueError: without class_counts.
        """
        if self.weights is None:
            raise ValueError(
                "the federated loss needs to know how often each class occurs: set "
                "model.box_head.federated.class_counts, or train by detcore.fit or pipelines/train.py, which count"
            )
        num_classes = self.weights.shape[0]
        seed, step = batch.rng_key.unbind()
        candidates = torch.arange(num_classes, device=labels.device) + draw * num_classes
        keys = keyed_uniform(seed, step, batch.sample_ids, RANDOM_SITE, candidates)
        return federated_classes(
            labels,
            sampled,
            weights=self.weights,
            keys=keys,
            num_classes_per_image=self.num_classes_per_image,
        )
