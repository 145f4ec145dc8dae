"""A batch's detections in the coordinates of its raw images."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from torch import Tensor

from detcore.ops import semantic_map
from detcore.structures.batch import Batch, Detections
from detcore.structures.coordinates import boxes_to_original, keypoints_to_original, rotated_to_original


class BatchInImages:
    """What every kind of prediction is collected from; each thing is brought to the host once, when first asked for.

    Args:
        batch: what was detected in.
        detections: what was detected.
        images: the ground truth's images, by sample.

    Attributes:
        rows: those of the batch that are images, and no filling.
        samples: the sample of each row.
        sizes: height and width of each row's raw image.

    Raises:
        ValueError: if an image's size is not the ground truth's.
    """

    def __init__(self, batch: Batch, detections: Detections, images: Sequence[dict[str, Any]]) -> None:
        self.batch = batch
        self.detections = detections
        self.samples: list[int] = batch.sample_ids.tolist()
        self.sizes: list[tuple[int, int]] = [(height, width) for height, width in batch.original_sizes.tolist()]
        self.rows = [row for row, real in enumerate(batch.real.tolist()) if real]
        self.images = {row: images[self.samples[row]] for row in self.rows}
        for row, image in self.images.items():
            height, width = self.sizes[row]
            if (image["height"], image["width"]) != (height, width):
                raise ValueError(
                    f"image {image['id']} is {width} x {height} pixels, its ground truth says "
                    f"{image['width']} x {image['height']}"
                )

    def required(self, name: str) -> Tensor:
        """A field of the detections. Raises ValueError if the model gives none."""
        value = getattr(self.detections, name)
        if value is None:
            raise ValueError(f"{name} are to be evaluated, but the model gives none")
        tensor: Tensor = value
        return tensor

    @cached_property
    def boxes_xyxy(self) -> Tensor:
        """(B, D, 4) float64 on the host, clipped to the images."""
        return boxes_to_original(self.detections.boxes_xyxy, self.batch).cpu()

    @cached_property
    def kept(self) -> Tensor:
        """(B, D) bool on the host: detections of which something lies in the image."""
        boxes = self.boxes_xyxy
        return self.detections.valid.cpu() & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)

    @cached_property
    def boxes_xywha(self) -> Tensor:
        """(B, D, 5) float64 on the host."""
        return rotated_to_original(self.required("boxes_xywha"), self.batch).cpu()

    @cached_property
    def keypoints(self) -> Tensor:
        """(B, D, K, 3) float64 on the host."""
        return keypoints_to_original(self.required("keypoints"), self.batch).cpu()

    def semantic(self, row: int) -> Tensor:
        """The class of every pixel of a raw image: (height, width) integer, on the device."""
        return semantic_map(
            self.required("semantic"),
            self.batch,
            row,
            content_size=self._content_sizes[row],
            image_size=self.sizes[row],
        )

    @cached_property
    def _content_sizes(self) -> list[tuple[int, int]]:
        return [(height, width) for height, width in self.batch.image_sizes.tolist()]
