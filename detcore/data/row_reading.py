"""From a sample's number to a row: read, decoded, augmented."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detcore.config.transforms import ColorJitter, CopyPaste, RandomCrop, Transform, most_images
from detcore.data.annotations import Objects
from detcore.data.augmentation.canvas import Picture
from detcore.data.augmentation.draws import Draws
from detcore.data.augmentation.objects import Limits, PlacedObjects
from detcore.data.augmentation.pipeline import Pipeline
from detcore.data.augmentation.room import fit_outlines
from detcore.data.batching import Capacity, Row
from detcore.data.buckets import Shape
from detcore.data.cuda_decoding import CudaDecoder
from detcore.data.decoding import decode
from detcore.data.sample import Sample, SampleTransform
from detcore.data.sampler import Purpose, keyed_generator
from detcore.data.shards import ShardedSplit


class SampleError(ValueError):
    """Names a sample that could not be read.

    Attributes:
        sample: its index in the split.
    """

    def __init__(self, sample: int, message: str) -> None:
        super().__init__(message)
        self.sample = sample


class Drawn(NamedTuple):
    """What an epoch drew for a row of a batch.

    Attributes:
        sample: index into the split; -1 where the row is empty.
        choice: which of the pipeline's sizes.
        repeat: how often the epoch had the sample before; each time it is augmented anew.
    """

    sample: int
    choice: int
    repeat: int = 0


def _reader_of_pixels(transforms: Sequence[Transform], transform: SampleTransform | None) -> str | None:
    """What needs the pixels on the CPU."""
    if any(isinstance(other, ColorJitter) and other.contrast for other in transforms):
        return "color_jitter's contrast"
    return None if transform is None else "a transform of your own"


class ReadsRows(Protocol):
    """What gives the rows of samples; for any thread."""

    def __call__(self, drawn: Sequence[Drawn], *, epoch: int, shape: Shape, mixes: bool = True) -> list[Row | None]: ...

    def num_bytes(self, samples: NDArray[np.int64]) -> int: ...


class RowReader:
    """Reads, decodes and draws samples. Stateless: safe to use from several threads, and in any order."""

    def __init__(
        self,
        *,
        split: ShardedSplit,
        samples: NDArray[np.int64],
        transforms: Sequence[Transform],
        capacity: Capacity,
        seed: int,
        limits: Limits,
        transform: SampleTransform | None,
        stream: torch.cuda.Stream | None = None,
        on_gpu: CudaDecoder | None = None,
    ) -> None:
        """Takes what `build_loader` takes.

        Args:
            samples: (n,) those that take part: images are mixed with no others.
            stream: brings images to a GPU, those of a call at once.
            on_gpu: decodes in place of the CPU.

        Raises:
            ValueError: a transform that needs what the data does not have, or pixels that are on the GPU.
        """
        needs_pixels = _reader_of_pixels(transforms, transform)
        if on_gpu is not None and needs_pixels:
            raise ValueError(f"data.decode=cuda: {needs_pixels} needs the pixels on the CPU; set data.decode=cpu")
        for needing in transforms:
            if isinstance(needing, CopyPaste) and not split.has_masks:
                raise ValueError(f"train_transforms: copy_paste needs outlines, which {split.name} does not have")
            if isinstance(needing, RandomCrop) and needing.max_class_share < 1.0 and not split.has_semantic:
                raise ValueError(f"train_transforms: max_class_share needs semantic maps, which {split.name} has not")
        self._split = split
        self._samples = samples
        self._capacity = capacity
        self._seed = seed
        self._transform = transform
        self._stream = None if needs_pixels else stream
        self._on_gpu = on_gpu
        self._file_names = split.file_names if transform else []
        self._mixes = most_images(transforms) > 1
        self._pipeline = Pipeline(
            transforms,
            limits=limits,
            keypoint_flip=() if split.keypoints is None else split.keypoints.flip,
            num_samples=len(samples),
            load=self._partner,
        )

    def __call__(self, drawn: Sequence[Drawn], *, epoch: int, shape: Shape, mixes: bool = True) -> list[Row | None]:
        """Rows of a batch, None where they are empty.

        All are decoded before the first is augmented: the decoder leaves nothing of Python in the processor's caches,
        and what comes after it takes three times as long.

        Args:
            drawn: for each row.
            epoch: keys what is drawn, with the sample and the seed.
            shape: height and width of the batch.
            mixes: False leaves out what mixes images.

        Raises:
            ValueError: anything that went wrong, with the image's name.
        """
        images = iter(self._images([of.sample for of in drawn if of.sample >= 0]))
        return [None if of.sample < 0 else self._row(of, next(images), epoch, shape, mixes) for of in drawn]

    def num_bytes(self, samples: NDArray[np.int64]) -> int:
        """Of the pixels of the split's images."""
        heights, widths = (sides[samples].astype(np.int64) for sides in (self._split.heights, self._split.widths))
        return 3 * int(heights @ widths)

    def _images(self, samples: Sequence[int]) -> list[Tensor]:
        """(h, w, 3) uint8 each."""
        sizes = [(int(self._split.heights[sample]), int(self._split.widths[sample])) for sample in samples]
        if self._on_gpu is not None:
            files = [self._read(sample) for sample in samples]
            return [
                torch.from_numpy(self._decode(sample, size, data)) if pixels is None else pixels
                for sample, data, size, pixels in zip(samples, files, sizes, self._on_gpu(files, sizes), strict=True)
            ]
        if self._stream is not None:
            return self._copied(samples, sizes, self._stream)
        return [torch.from_numpy(self._decode(*of, self._read(of[0]))) for of in zip(samples, sizes, strict=True)]

    def _copied(
        self, samples: Sequence[int], sizes: Sequence[tuple[int, int]], stream: torch.cuda.Stream
    ) -> list[Tensor]:
        """Decoded into one block of pinned memory, which goes to the GPU as one copy."""
        ends = np.cumsum([0, *(3 * height * width for height, width in sizes)]).tolist()
        block = torch.empty(ends[-1], dtype=torch.uint8, pin_memory=True)
        places = list(zip(samples, sizes, ends, strict=False))
        for (sample, size, start), done in zip(places, self._split.decode_into(block, samples), strict=True):
            if not done:
                out = block[start : start + 3 * math.prod(size)].view(*size, 3).numpy()
                self._decode(sample, size, self._read(sample), out)
        with torch.cuda.stream(stream):
            there = block.to(stream.device, non_blocking=True)
        return [there.as_strided((h, w, 3), (3 * w, 3, 1), start) for _, (h, w), start in places]

    def _read(self, sample: int) -> bytes:
        with self._naming(sample):
            return self._split.read(sample)

    def _decode(
        self, sample: int, size: tuple[int, int], data: bytes, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        with self._naming(sample):
            return decode(data, size=size, out=out)

    def _row(self, drawn: Drawn, image: Tensor, epoch: int, shape: Shape, mixes: bool) -> Row:
        sample, choice, repeat = drawn
        draws = Draws(self._seed, epoch, sample, repeat)
        with self._naming(sample):
            picture = self._picture(sample, image, draws)
            placement, objects = self._pipeline(picture, choice=choice, draws=draws, within=shape, mixes=mixes)
            if self._mixes and self._capacity.rings:
                objects = fit_outlines(objects, rings=self._capacity.rings, vertices=self._capacity.vertices)
            self._check_room(objects)
            return Row(sample, placement, objects)

    @contextmanager
    def _naming(self, sample: int) -> Iterator[None]:
        """Errors name the image; those that do already stay as they are."""
        try:
            yield
        except SampleError:
            raise
        except Exception as error:
            where = f"{self._split.file_names[sample]} (sample {sample} of {self._split.split})"
            raise SampleError(sample, f"{where}: {error or type(error).__name__}") from error

    def _partner(self, place: int, draws: Draws) -> Picture:
        """A sample to be mixed into another, by its place among those that take part."""
        sample = int(self._samples[place])
        (image,) = self._images([sample])
        with self._naming(sample):
            return self._picture(sample, image, draws)

    def _picture(self, sample: int, image: Tensor, draws: Draws) -> Picture:
        """A sample as the split has it, or as the user's transform changed it."""
        semantic = self._split.semantic(sample) if self._split.has_semantic else None
        if self._transform is None and (flat := self._split.targets(sample)) is not None:
            return Picture(image, PlacedObjects(*flat), None if semantic is None else torch.from_numpy(semantic))
        objects = self._split.objects(sample)
        found: Objects | Sample = objects
        if self._transform is not None:
            raw = self._as_sample(sample, image, objects, semantic)
            random = keyed_generator(
                draws.seed, draws.epoch, Purpose.TRANSFORM, draws.sample, draws.repeat, site=draws.path
            )
            found = self._transform(raw, random)
            image = self._checked(found)
            semantic = found.semantic if self._split.has_semantic else None
        polygons = found.polygons if self._split.has_masks and found.polygons is not None else []
        crowd = np.zeros(len(found.labels), bool) if found.crowd is None else found.crowd
        targets = np.flatnonzero(~crowd)
        layout, rotated = self._split.keypoints, found.boxes_xywha if self._split.has_rotated else None
        placed = PlacedObjects.of(
            boxes_xyxy=found.boxes_xyxy[targets],
            labels=found.labels[targets],
            polygons=[polygons[i] for i in targets.tolist()] if polygons else [],
            keypoints=None if layout is None or found.keypoints is None else found.keypoints[targets],
            boxes_xywha=None if rotated is None else rotated[targets],
        )
        return Picture(image, placed, None if semantic is None else torch.from_numpy(semantic))

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
        pixels = torch.from_numpy(decode(image) if isinstance(image, bytes) else np.ascontiguousarray(image))
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
