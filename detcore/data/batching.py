"""From rows to a batch of static shape."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from detcore.config.transforms import Transform, most_images
from detcore.data.augmentation.canvas import Layer
from detcore.data.augmentation.objects import PlacedObjects
from detcore.data.augmentation.pipeline import Draw
from detcore.data.buckets import Shape
from detcore.data.shards import ShardedSplit
from detcore.structures.batch import Batch, Polygons, Targets


@dataclass(frozen=True)
class Capacity:
    """What every row of a split's batches has room for.

    Attributes:
        objects, rings, vertices: how many; rings 0 means no outlines.
        keypoints: of each object; 0 means none.
        rotated: whether there are rotated boxes.
        semantic: whether there are semantic maps.
    """

    objects: int
    rings: int
    vertices: int
    keypoints: int = 0
    rotated: bool = False
    semantic: bool = False

    @classmethod
    def of(cls, split: ShardedSplit, transforms: Sequence[Transform] = ()) -> Self:
        """The split's largest numbers in one image, rounded up to multiples of 8, for each that a pipeline mixes."""
        images = most_images(transforms)

        def room(most: int) -> int:
            return -(-max(most, 1) // 8) * 8 * images

        masks = split.has_masks
        return cls(
            room(split.max_objects),
            room(split.max_rings) * masks,
            room(split.max_vertices) * masks,
            keypoints=0 if split.keypoints is None else len(split.keypoints),
            rotated=split.has_rotated,
            semantic=split.has_semantic,
        )


@dataclass(frozen=True)
class Row:
    """One sample on its way into a batch: its images as read, with their matrices, and its moved objects."""

    sample: int
    placement: Draw
    objects: PlacedObjects

    @property
    def ground(self) -> Layer:
        """The sample's own image."""
        return self.placement.layers[0]


def stack(
    rows: Sequence[Row | None], *, shape: Shape, capacity: Capacity, seed: int, step: int
) -> tuple[Batch, Tensor]:
    """Rows as a batch without its pixels, the maps' among them, and the colour matrices (B, 3, 4) float32.

    A None is an empty row: not real, sample id -1, the size of the whole batch and the identity as geometry, so that a
    model computes finite numbers on it.
    """
    num_rows = len(rows)
    sizes = np.tile(np.array(shape, np.int64), (num_rows, 1))
    raw_sizes = sizes.copy()
    samples = np.full(num_rows, -1, np.int64)
    geometry = np.tile(np.eye(3, dtype=np.float32), (num_rows, 1, 1))
    colour = np.tile(np.eye(3, 4, dtype=np.float32), (num_rows, 1, 1))
    for i, row in enumerate(rows):
        if row is not None:
            samples[i] = row.sample
            sizes[i] = row.placement.content_size
            raw_sizes[i] = row.ground.image.shape[:2]
            geometry[i] = row.ground.geometry
            colour[i] = row.ground.colour
    batch = Batch(
        images=torch.empty(num_rows, 3, 0, 0),
        image_sizes=torch.from_numpy(sizes),
        sample_ids=torch.from_numpy(samples),
        real=torch.from_numpy(samples >= 0),
        original_sizes=torch.from_numpy(raw_sizes),
        geometry=torch.from_numpy(geometry),
        rng_key=torch.tensor([seed, step]),
        targets=_stack_targets([None if row is None else row.objects for row in rows], capacity),
    )
    return batch, torch.from_numpy(colour)


def _stack_targets(rows: Sequence[PlacedObjects | None], capacity: Capacity) -> Targets:
    boxes = np.zeros((len(rows), capacity.objects, 4), np.float32)
    labels = np.zeros((len(rows), capacity.objects), np.int64)
    valid = np.zeros((len(rows), capacity.objects), bool)
    vertices = np.zeros((len(rows), capacity.vertices, 2), np.float32)
    starts, counts, owners = np.zeros((3, len(rows), capacity.rings), np.int64)
    keypoints = np.zeros((len(rows), capacity.objects, capacity.keypoints, 3), np.float32)
    rotated = np.zeros((len(rows), capacity.objects, 5 if capacity.rotated else 0), np.float32)
    for i, objects in enumerate(rows):
        if objects is None:
            continue
        number, num_rings = len(objects.labels), len(objects.ring_counts)
        boxes[i, :number] = objects.boxes_xyxy
        labels[i, :number] = objects.labels
        valid[i, :number] = True
        vertices[i, : len(objects.vertices)] = objects.vertices
        starts[i, :num_rings] = np.cumsum(objects.ring_counts) - objects.ring_counts
        counts[i, :num_rings] = objects.ring_counts
        owners[i, :num_rings] = objects.ring_objects
        if objects.keypoints is not None:
            keypoints[i, :number] = objects.keypoints
        if objects.boxes_xywha is not None:
            rotated[i, :number] = objects.boxes_xywha
    targets = Targets(
        torch.from_numpy(boxes),
        torch.from_numpy(labels),
        torch.from_numpy(valid),
        boxes_xywha=torch.from_numpy(rotated) if capacity.rotated else None,
        keypoints=torch.from_numpy(keypoints) if capacity.keypoints else None,
    )
    if not capacity.rings:
        return targets
    outlines = Polygons(*(torch.from_numpy(array) for array in (vertices, starts, counts, owners)))
    return replace(targets, polygons=outlines)
