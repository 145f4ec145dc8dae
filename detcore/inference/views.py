"""The views of an image that test-time augmentation looks at."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from numpy.typing import NDArray

from detcore.config.training import TTAConfig
from detcore.config.transforms import ResizeFixed, ResizeShortestEdge
from detcore.data import ShardedSplit
from detcore.data.decoding import decode
from detcore.inference.preprocessing import Preprocessing
from detcore.models.augmented import AugmentedBatch
from detcore.structures.batch import Batch

SCALES = (0.75, 1.0, 1.25)
"""Sizes of the views where none are stated, in the model's own."""


class AugmentedPreprocessing:
    """Each image as the model is used to see it, and its views; all are made from the image itself.

    Args:
        own: how the model is used to see images.
        tta: the views.
    """

    def __init__(self, *, own: Preprocessing, tta: TTAConfig) -> None:
        self.own = own
        shortest = _shortest(own.transform)
        sizes = tta.sizes or tuple(round(scale * shortest) for scale in SCALES)
        transforms = [_resized(own.transform, size / shortest, tta.max_size) for size in sizes]
        mirrors = (False, True) if tta.flip else (False,)
        self.views = tuple((replace(own, transform=transform), flip) for transform in transforms for flip in mirrors)

    def padded_size(self, image: NDArray[np.uint8]) -> tuple[int, ...]:
        """Heights and widths of the network's inputs for an image: they depend on that image alone."""
        views = (preprocessing.padded_size(image) for preprocessing, _ in self.views)
        return sum(views, self.own.padded_size(image))

    def batch(self, images: Sequence[NDArray[np.uint8]], device: torch.device) -> AugmentedBatch:
        """Images (h, w, 3) whose padded sizes are the same, as a batch on `device`."""
        base = self.own.batch(images, device)
        views = tuple(preprocessing.batch(images, device, mirrored=flip) for preprocessing, flip in self.views)
        return AugmentedBatch(
            **{field.name: getattr(base, field.name) for field in fields(base)},
            views=views,
            mirrored=tuple(flip for _, flip in self.views),
        )


def augmented_batches(
    split: ShardedSplit,
    preprocessing: AugmentedPreprocessing,
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Iterator[AugmentedBatch]:
    """All images of a split in batches of `batch_size` at most, pixels in `dtype`."""
    for start in range(0, len(split), batch_size):
        groups: dict[tuple[int, ...], list[tuple[int, NDArray[np.uint8]]]] = defaultdict(list)
        for sample in range(start, min(start + batch_size, len(split))):
            image = decode(split.read(sample))
            groups[preprocessing.padded_size(image)].append((sample, image))
        for group in groups.values():
            batch = preprocessing.batch([image for _, image in group], device)
            samples = torch.tensor([sample for sample, _ in group], device=device)

            def numbered(view: Batch, samples: torch.Tensor = samples) -> Batch:
                return replace(view, sample_ids=samples, images=view.images.to(dtype))

            named = replace(batch, sample_ids=samples, images=batch.images.to(dtype))
            yield replace(named, views=tuple(numbered(view) for view in batch.views))


def _shortest(transform: ResizeShortestEdge | ResizeFixed) -> int:
    if isinstance(transform, ResizeShortestEdge):
        return transform.sizes[0]
    return min(transform.height, transform.width)


def _resized(
    transform: ResizeShortestEdge | ResizeFixed, factor: float, max_size: int | None
) -> ResizeShortestEdge | ResizeFixed:
    """A transform to so many times the size; the longest side allowed grows alike unless it is stated."""
    if isinstance(transform, ResizeShortestEdge):
        longest = max_size or round(transform.max_size * factor)
        return ResizeShortestEdge(sizes=(round(transform.sizes[0] * factor),), max_size=longest)
    if max_size is not None:
        factor = min(factor, max_size / max(transform.height, transform.width))
    return ResizeFixed(height=max(1, round(transform.height * factor)), width=max(1, round(transform.width * factor)))
