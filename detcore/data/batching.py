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

from detcore.config.transforms import Transform
from detcore.data.annotations import Objects
from detcore.data.augment import Draw, PlacedObjects, draw, place_objects
from detcore.data.buckets import Shape
from detcore.data.sample import Sample, SampleTransform
from detcore.data.sampler import Purpose, keyed_generator
from detcore.data.shards import ShardedSplit
from detcore.structures.batch import Batch, Polygons, Targets

_JPEG_START = b"\xff\xd8"


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
    def of(cls, split: ShardedSplit) -> Self:
        """The split's largest numbers in one image, rounded up to multiples of 8."""

        def room(most: int) -> int:
            return -(-max(most, 1) // 8) * 8

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
    """One image on its way into a batch: (h, w, 3) uint8 RGB as read, its matrices and its moved objects.

    `semantic` is the (h, w) uint8 map as read, where the data has one.
    """

    sample: int
    image: Tensor
    placement: Draw
    objects: PlacedObjects
    semantic: Tensor | None = None


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

    def __call__(self, *, epoch: int, sample: int, choice: int, shape: Shape, repeat: int = 0) -> Row:
        """The row of a sample in an epoch.

        Args:
            epoch: keys what is drawn, with the sample and the seed.
            sample: index into the split.
            choice: which of the pipeline's sizes.
            shape: height and width of the batch.
            repeat: how often the epoch had the sample before; each time it is augmented anew.

        Raises:
            ValueError: anything that went wrong, with the image's name.
        """
        try:
            return self._read(epoch, sample, choice, shape, repeat)
        except Exception as error:
            where = f"{self._split.file_names[sample]} (sample {sample} of {self._split.split})"
            raise ValueError(f"{where}: {error or type(error).__name__}") from error

    def _read(self, epoch: int, sample: int, choice: int, shape: Shape, repeat: int) -> Row:
        image = decode(self._split.read(sample))
        expected = (int(self._split.heights[sample]), int(self._split.widths[sample]))
        if image.shape[:2] != expected:
            raise ValueError(f"decodes to {tuple(image.shape[:2])}, the index says {expected}; prepare the data again")
        objects = self._split.objects(sample)
        semantic = self._split.semantic(sample) if self._split.has_semantic else None
        found: Objects | Sample = objects
        if self._transform is not None:
            raw = self._as_sample(sample, image, objects, semantic)
            found = self._transform(raw, keyed_generator(self._seed, epoch, Purpose.TRANSFORM, sample, repeat))
            image = self._checked(found)
            semantic = found.semantic if self._split.has_semantic else None
        polygons = found.polygons if self._split.has_masks and found.polygons is not None else []
        crowd = np.zeros(len(found.labels), bool) if found.crowd is None else found.crowd
        targets = np.flatnonzero(~crowd)
        random = keyed_generator(self._seed, epoch, Purpose.AUGMENTATION, sample, repeat)
        placement = draw(self._transforms, image=image.numpy(), choice=choice, random=random, within=shape)
        layout, rotated = self._split.keypoints, found.boxes_xywha if self._split.has_rotated else None
        placed = place_objects(
            boxes_xyxy=found.boxes_xyxy[targets],
            labels=found.labels[targets],
            polygons=[polygons[i] for i in targets.tolist()] if polygons else [],
            placement=placement,
            min_size=self._min_box_size,
            keypoints=None if layout is None or found.keypoints is None else found.keypoints[targets],
            keypoint_flip=() if layout is None else layout.flip,
            boxes_xywha=None if rotated is None else rotated[targets],
        )
        self._check_room(placed)
        return Row(sample, image, placement, placed, None if semantic is None else torch.from_numpy(semantic))

    def _as_sample(self, sample: int, image: Tensor, found: Objects, semantic: NDArray[np.uint8] | None) -> Sample:
        """What a user's transform gets, which may change it in place."""
        masks = self._split.has_masks
        return Sample(
            image=image.numpy(),
            boxes_xyxy=found.boxes_xyxy.copy(),
            labels=found.labels.copy(),
            polygons=[[ring.copy() for ring in rings] for rings in found.polygons] if masks else None,
            keypoints=found.keypoints,
            boxes_xywha=found.boxes_xywha,
            semantic=semantic,
            crowd=found.crowd.copy(),
            image_id=int(self._split.image_ids[sample]),
            file_name=self._file_names[sample],
        )

    def _checked(self, changed: Sample) -> Tensor:
        """The image of what a user's transform returned."""
        if not isinstance(changed, Sample):
            raise ValueError(f"the transform returned {type(changed).__name__}, not a Sample")
        labels, num_classes = changed.labels, len(self._split.categories)
        if ((labels < 0) | (labels >= num_classes)).any():
            found = sorted(set(labels.tolist()))
            raise ValueError(f"the transform returned labels {found}, but the data has {num_classes} classes")
        split, layout = self._split, self._split.keypoints
        for name, has, what in (
            ("polygons", split.has_masks, "masks"),
            ("keypoints", layout is not None, "keypoints"),
            ("boxes_xywha", split.has_rotated, "rotated boxes"),
            ("semantic", split.has_semantic, "semantic maps"),
        ):
            if has and getattr(changed, name) is None:
                raise ValueError(f"the transform returned no {name}, but the data has {what}")
        if layout is not None and changed.keypoints is not None and changed.keypoints.shape[1] != len(layout):
            raise ValueError(f"the transform returned {changed.keypoints.shape[1]} keypoints, not {len(layout)}")
        image = changed.image
        pixels = decode(image) if isinstance(image, bytes) else torch.from_numpy(np.ascontiguousarray(image))
        if split.has_semantic and changed.semantic is not None and changed.semantic.shape != pixels.shape[:2]:
            shapes = f"{changed.semantic.shape} with an image of {tuple(pixels.shape[:2])}"
            raise ValueError(f"the transform returned a semantic map of {shapes}")
        return pixels

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
