"""From a sample's number to a row, and from rows to a batch of static shape."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from detcore.config.data import Transform
from detcore.data.augment import Draw, PlacedObjects, draw, place_objects
from detcore.data.buckets import Shape
from detcore.data.sample import Sample, SampleTransform
from detcore.data.sampler import Purpose, keyed_generator
from detcore.data.shards import ShardedSplit
from detcore.structures.batch import Batch, Polygons, Targets

_JPEG_START = b"\xff\xd8"


@dataclass(frozen=True)
class Capacity:
    """How many objects, rings and vertices every row of a split's batches has room for; rings 0 means no outlines."""

    objects: int
    rings: int
    vertices: int

    @classmethod
    def of(cls, split: ShardedSplit) -> Self:
        """The split's largest numbers in one image, rounded up to multiples of 8."""

        def room(most: int) -> int:
            return -(-max(most, 1) // 8) * 8

        masks = split.has_masks
        return cls(room(split.max_objects), room(split.max_rings) * masks, room(split.max_vertices) * masks)


@dataclass(frozen=True)
class Row:
    """One image on its way into a batch: (h, w, 3) uint8 RGB as read, its matrices and its moved objects."""

    sample: int
    image: Tensor
    placement: Draw
    objects: PlacedObjects


def decode(data: bytes) -> Tensor:
    """An image file as (h, w, 3) uint8 RGB, EXIF orientation ignored. The GIL is free meanwhile.

    JPEG goes to torchvision, whose pixels are PIL's in less time. PIL has the last word on what that refuses (it may be
    built without JPEG, and does not say well what is wrong), and reads PNG: torchvision crashes on a damaged one.

    Raises:
        OSError: a damaged file.
    """
    if data.startswith(_JPEG_START):
        try:
            planes: Tensor = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
            return planes.permute(1, 2, 0).contiguous()
        except RuntimeError:
            pass
    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB")))


class RowReader:
    """Reads, decodes and draws single samples. Stateless: safe to use from several threads, and in any order."""

    def __init__(
        self,
        *,
        split: ShardedSplit,
        transforms: Sequence[Transform],
        capacity: Capacity,
        seed: int,
        min_box_size: float,
        transform: SampleTransform | None,
    ) -> None:
        """Takes what `build_loader` takes."""
        self._split = split
        self._transforms = tuple(transforms)
        self._capacity = capacity
        self._seed = seed
        self._min_box_size = min_box_size
        self._transform = transform
        self._file_names = split.file_names if transform else []

    def __call__(self, *, epoch: int, sample: int, choice: int, shape: Shape) -> Row:
        """The row of a sample in an epoch.

        Args:
            epoch: keys what is drawn, with the sample and the seed.
            sample: index into the split.
            choice: which of the pipeline's sizes.
            shape: height and width of the batch.

        Raises:
            ValueError: anything that went wrong, with the image's name.
        """
        try:
            return self._read(epoch, sample, choice, shape)
        except Exception as error:
            where = f"{self._split.file_names[sample]} (sample {sample} of {self._split.split})"
            raise ValueError(f"{where}: {error or type(error).__name__}") from error

    def _read(self, epoch: int, sample: int, choice: int, shape: Shape) -> Row:
        image = decode(self._split.read(sample))
        expected = (int(self._split.heights[sample]), int(self._split.widths[sample]))
        if image.shape[:2] != expected:
            raise ValueError(f"decodes to {tuple(image.shape[:2])}, the index says {expected}; prepare the data again")
        found = self._split.objects(sample)
        polygons: Sequence[Sequence[NDArray[np.float64]]] = found.polygons if self._split.has_masks else []
        boxes, labels, crowd = found.boxes_xyxy, found.labels, found.crowd
        if self._transform is not None:
            raw = Sample(
                image=image.numpy(),
                boxes_xyxy=boxes.copy(),
                labels=labels.copy(),
                polygons=[[ring.copy() for ring in rings] for rings in polygons] if self._split.has_masks else None,
                crowd=crowd.copy(),
                image_id=int(self._split.image_ids[sample]),
                file_name=self._file_names[sample],
            )
            changed = self._transform(raw, keyed_generator(self._seed, epoch, Purpose.TRANSFORM, sample))
            image, polygons = self._checked(changed)
            boxes, labels = changed.boxes_xyxy, changed.labels
            crowd = np.zeros(len(labels), bool) if changed.crowd is None else changed.crowd
        targets = np.flatnonzero(~crowd)
        random = keyed_generator(self._seed, epoch, Purpose.AUGMENTATION, sample)
        placement = draw(self._transforms, image=image.numpy(), choice=choice, random=random, within=shape)
        objects = place_objects(
            boxes_xyxy=boxes[targets],
            labels=labels[targets],
            polygons=[polygons[i] for i in targets.tolist()] if polygons else [],
            placement=placement,
            min_size=self._min_box_size,
        )
        self._check_room(objects)
        return Row(sample, image, placement, objects)

    def _checked(self, changed: Sample) -> tuple[Tensor, Sequence[Sequence[NDArray[np.float64]]]]:
        """Image and outlines of what a user's transform returned."""
        if not isinstance(changed, Sample):
            raise ValueError(f"the transform returned {type(changed).__name__}, not a Sample")
        labels, num_classes = changed.labels, len(self._split.categories)
        if ((labels < 0) | (labels >= num_classes)).any():
            found = sorted(set(labels.tolist()))
            raise ValueError(f"the transform returned labels {found}, but the data has {num_classes} classes")
        if self._split.has_masks and changed.polygons is None:
            raise ValueError("the transform returned no polygons, but the data has masks")
        polygons = changed.polygons if self._split.has_masks and changed.polygons is not None else []
        if isinstance(changed.image, bytes):
            return decode(changed.image), polygons
        return torch.from_numpy(np.ascontiguousarray(changed.image)), polygons

    def _check_room(self, objects: PlacedObjects) -> None:
        found = {"objects": len(objects.labels), "rings": len(objects.ring_counts), "vertices": len(objects.vertices)}
        for name, number in found.items():
            room: int = getattr(self._capacity, name)
            if number > room:
                raise ValueError(
                    f"{number} {name} after the transform, but batches have room for {room}, the most of any image "
                    "in the split; let the transform add no more"
                )


def stack(
    rows: Sequence[Row | None], *, shape: Shape, capacity: Capacity, seed: int, step: int
) -> tuple[Batch, Tensor]:
    """Rows as a batch that has everything but its pixels, and the colour matrices (B, 3, 4) float32.

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
            raw_sizes[i] = row.image.shape[:2]
            geometry[i] = row.placement.geometry
            colour[i] = row.placement.colour
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
    targets = Targets(torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(valid))
    if not capacity.rings:
        return targets
    outlines = Polygons(*(torch.from_numpy(array) for array in (vertices, starts, counts, owners)))
    return replace(targets, polygons=outlines)
