"""What flows from the loader into a model: a batch of static shape."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorStruct:
    """Moves a frozen dataclass of tensors (of such dataclasses, of tuples of them, or None) between devices."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """The same structure with `function` applied to every tensor."""

        def apply(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, tuple):
                return tuple(apply(item) for item in value)
            return value.map(function) if isinstance(value, TensorStruct) else value

        return replace(self, **{f.name: apply(getattr(self, f.name)) for f in fields(self)})

    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of the fields."""
        found: list[Tensor] = []
        self.map(lambda tensor: found.append(tensor) or tensor)  # type: ignore[func-returns-value]
        return found

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        return self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))


@dataclass(frozen=True)
class Polygons(TensorStruct):
    """Instance outlines of a batch, padded: rings index into their image's row of vertices.

    An object is the union of its rings, each filled.

    Attributes:
        vertices: (B, V, 2) float32, (x, y) in pixels of the network's input.
        ring_starts: (B, R) int64, first vertex of each ring.
        ring_counts: (B, R) int64, vertices of each ring; 0 is padding.
        ring_objects: (B, R) int64, the ring's object: an index into `Targets`' second dimension.
    """

    vertices: Tensor
    ring_starts: Tensor
    ring_counts: Tensor
    ring_objects: Tensor


@dataclass(frozen=True)
class Targets(TensorStruct):
    """Ground truth of a batch, padded to a capacity of M objects.

    Attributes:
        boxes_xyxy: (B, M, 4) float32, pixels of the network's input; 0 where padded.
        labels: (B, M) int64, 0-based classes; 0 where padded.
        valid: (B, M) bool.
        polygons: outlines, or None where the data has no masks.
        boxes_xywha: (B, M, 5) float32, (cx, cy, w, h, angle in degrees, counter-clockwise as one sees it), or None
            where the data has no rotated boxes; `boxes_xyxy` are then the upright boxes around them.
        keypoints: (B, M, K, 3) float32, x, y in pixels and visibility (0 not labelled, 1 hidden, 2 visible), or None.
        semantic: (B, H, W) uint8, the class of each pixel of `images`, or None; 255 does not count, as in the padding.
    """

    boxes_xyxy: Tensor
    labels: Tensor
    valid: Tensor
    polygons: Polygons | None = None
    boxes_xywha: Tensor | None = None
    keypoints: Tensor | None = None
    semantic: Tensor | None = None


@dataclass(frozen=True)
class Batch(TensorStruct):
    """Images of one shape with all that is known of them.

    Attributes:
        images: (B, 3, H, W) float, channels_last, RGB, normalised; content at the top left, 0 elsewhere.
        image_sizes: (B, 2) int64, height and width of each image's content.
        sample_ids: (B,) int64, index of the sample in its split; -1 where the row is empty.
        real: (B,) bool, False for the empty images that fill a short batch.
        original_sizes: (B, 2) int64, height and width of the raw image.
        geometry: (B, 3, 3) float32, homogeneous matrix from raw pixel coordinates to the network's.
        rng_key: (2,) int64, (seed, step): with sample and site it keys every random number of the step.
        targets: ground truth, or None.
    """

    images: Tensor
    image_sizes: Tensor
    sample_ids: Tensor
    real: Tensor
    original_sizes: Tensor
    geometry: Tensor
    rng_key: Tensor
    targets: Targets | None = None

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclass(frozen=True)
class Detections(TensorStruct):
    """A model's output for a batch, padded to D detections an image, by falling score.

    Attributes:
        boxes_xyxy: (B, D, 4) float32, pixels of the network's input, clipped to each image's content.
        scores: (B, D) float32 in [0, 1]; 0 where padded.
        labels: (B, D) int64, 0-based classes.
        valid: (B, D) bool.
        masks: (B, D, S, S) float32 probabilities inside each box, or None.
        boxes_xywha: (B, D, 5) float32 as in `Targets`, or None; `boxes_xyxy` are then the upright boxes around them.
        keypoints: (B, D, K, 3) float32, x, y in pixels of the network's input and a score, or None.
        semantic: (B, C, h, w) float32 logits of the pixels' classes, at a stride of the network's input, or None.
    """

    boxes_xyxy: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor
    masks: Tensor | None = None
    boxes_xywha: Tensor | None = None
    keypoints: Tensor | None = None
    semantic: Tensor | None = None
