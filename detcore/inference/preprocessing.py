"""From images to a batch, as the evaluation loader makes them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from detcore.config.transforms import ResizeFixed, ResizeShortestEdge
from detcore.data.augmentation.geometry import scaling
from detcore.data.augmentation.sizes import content_sizes
from detcore.ops import warp_normalize
from detcore.structures.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a published model wants its images.

    Attributes:
        transform: the resize of its test pipeline.
        image_mean, image_std: of R, G and B on the scale 0..255.
        size_divisor: the network's input has sides that are multiples of it.
    """

    transform: ResizeShortestEdge | ResizeFixed
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    size_divisor: int

    def content_size(self, image: NDArray[np.uint8]) -> tuple[int, int]:
        """Height and width that an image (h, w, 3) is resized to."""
        sizes = content_sizes(np.array([image.shape[:2]]), (self.transform,), np.zeros(1, np.int64))
        height, width = sizes[0].tolist()
        return height, width

    def padded_size(self, image: NDArray[np.uint8]) -> tuple[int, int]:
        """Height and width of the network's input for an image: it depends on that image alone."""
        height, width = self.content_size(image)
        divisor = self.size_divisor
        return -(-height // divisor) * divisor, -(-width // divisor) * divisor

    def batch(self, images: Sequence[NDArray[np.uint8]], device: torch.device, *, mirrored: bool = False) -> Batch:
        """Images (h, w, 3) of one padded size as a batch on `device`; `mirrored`: left and right change places."""
        shapes = {self.padded_size(image) for image in images}
        assert len(shapes) == 1, f"images of several padded sizes in one batch: {shapes}"
        raw_sizes = [(image.shape[0], image.shape[1]) for image in images]
        sizes = [self.content_size(image) for image in images]
        geometry = np.stack([scaling(old, new) for old, new in zip(raw_sizes, sizes, strict=True)])
        if mirrored:
            geometry[:, 0, 0] *= -1
            geometry[:, 0, 2] = [width for _, width in sizes]
        geometry_tensor = torch.from_numpy(geometry.astype(np.float32))
        pixels = warp_normalize(
            [torch.tensor(image, device=device) for image in images],
            geometry_tensor,
            torch.eye(3, 4).expand(len(images), 3, 4),
            shapes.pop(),
            content_sizes=torch.tensor(sizes),
            mean=self.image_mean,
            std=self.image_std,
        )
        batch = Batch(
            images=pixels,
            image_sizes=torch.tensor(sizes),
            sample_ids=torch.arange(len(images)),
            real=torch.ones(len(images), dtype=torch.bool),
            original_sizes=torch.tensor(raw_sizes),
            geometry=geometry_tensor,
            rng_key=torch.zeros(2, dtype=torch.int64),
        )
        return batch.to(device)
