"""One labelled image as users write it: the input of `write_split` and of a user's own transform."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detcore.data.rotated import upright

Rings = Sequence[NDArray[np.float64]]
"""The outline of one object: rings of shape (k, 2), (x, y) in pixels; the object is the union of the filled rings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """An image and its objects. Arrays and plain lists are both taken.

    Attributes:
        image: (H, W, 3) uint8 RGB, or the bytes of an image file.
        boxes_xyxy: (N, 4) float64, pixels; pixel (row i, column j) covers [j, j+1) x [i, i+1).
        labels: (N,) int64, 0-based classes.
        polygons: the rings of each object, or None where the data has no masks.
        keypoints: (N, K, 3) float64, x and y in the pixels of the boxes (a pixel's centre at .5) and visibility (0 not
            labelled, 1 hidden, 2 visible), or None.
        boxes_xywha: (N, 5) float64, centre, width and height in pixels and angle in degrees, counter-clockwise as one
            sees it, or None. `boxes_xyxy` become the upright boxes around them, whatever was given.
        semantic: (H, W) uint8, the class of each pixel, 255 where there is none, or None.
        crowd: (N,) bool, regions that neither count as found nor as missed; None means none.
        image_id: int; None takes the sample's place in its split, from 1.
        file_name: None takes the image id.

    Raises:
        ValueError: shapes or lengths that do not agree.
    """

    image: bytes | NDArray[np.uint8]
    boxes_xyxy: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    polygons: Sequence[Rings] | None = None
    keypoints: NDArray[np.float64] | None = None
    boxes_xywha: NDArray[np.float64] | None = None
    semantic: NDArray[np.uint8] | None = None
    crowd: NDArray[np.bool_] | None = None
    image_id: int | None = None
    file_name: str | None = None

    def __post_init__(self) -> None:
        where = f"sample {self.file_name or self.image_id or ''}".rstrip()
        if not isinstance(self.image, bytes):
            image = np.asarray(self.image)
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
                raise ValueError(f"{where}: image must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
            self._set("image", image)
        if self.boxes_xywha is not None:
            rotated = np.asarray(self.boxes_xywha, np.float64)
            rotated = rotated.reshape(0, 5) if rotated.size == 0 else rotated
            if rotated.ndim != 2 or rotated.shape[1] != 5 or not np.isfinite(rotated).all():
                raise ValueError(f"{where}: boxes_xywha must be (N, 5) finite numbers, got shape {rotated.shape}")
            self._set("boxes_xywha", rotated)
            self._set("boxes_xyxy", upright(rotated))
        boxes = np.asarray(self.boxes_xyxy, np.float64)
        boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
        if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
            raise ValueError(f"{where}: boxes_xyxy must be (N, 4) finite numbers, got shape {boxes.shape}")
        self._set("boxes_xyxy", boxes)
        self._set("labels", np.asarray(self.labels, np.int64))
        if self.crowd is not None:
            self._set("crowd", np.asarray(self.crowd, np.bool_))
        if self.polygons is not None:
            self._set("polygons", [[_ring(ring, where) for ring in rings] for rings in self.polygons])
        if self.keypoints is not None:
            keypoints = np.asarray(self.keypoints, np.float64)
            if keypoints.ndim != 3 or keypoints.shape[2] != 3 or not np.isfinite(keypoints).all():
                raise ValueError(f"{where}: keypoints must be (N, K, 3) finite numbers, got shape {keypoints.shape}")
            self._set("keypoints", keypoints)
        if self.semantic is not None:
            semantic = np.asarray(self.semantic)
            if semantic.dtype != np.uint8 or semantic.ndim != 2:
                raise ValueError(f"{where}: semantic must be (H, W) uint8, got {semantic.shape} {semantic.dtype}")
            self._set("semantic", semantic)
        for name in ("labels", "crowd", "polygons", "keypoints"):
            value = getattr(self, name)
            if value is not None and len(value) != len(boxes):
                raise ValueError(f"{where}: {len(boxes)} boxes_xyxy but {len(value)} {name}")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)


SampleTransform = Callable[[Sample, np.random.Generator], Sample]
"""A user's own augmentation. Its randomness comes from the generator, which is keyed by seed, epoch and sample: then a
resumed run, or one with other threads or ranks, draws the same."""


def _ring(ring: Any, where: str) -> NDArray[np.float64]:
    points = np.asarray(ring, np.float64).reshape(-1, 2)
    if len(points) < 3 or not np.isfinite(points).all():
        raise ValueError(f"{where}: a polygon's ring needs at least 3 finite points (x, y), got {points.tolist()}")
    return points
