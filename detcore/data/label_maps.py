"""Maps of labels, one PNG an image: semantic classes, or the segments of a panoptic annotation."""

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from detcore.data.columns import view

UNLABELLED = 255
"""In a semantic map: the pixel does not count."""

SEGMENT_SCHEMA = pa.schema(
    [
        ("sample", pa.int32()),  # row of the image in its split
        ("segment_id", pa.int64()),  # the number that the segment's pixels have
        ("category", pa.int32()),  # of a thing: its 0-based class; of stuff: its class in the semantic map
        ("is_thing", pa.bool_()),
        ("crowd", pa.bool_()),
    ]
)


@dataclass(frozen=True, slots=True)
class StoredMaps:
    """The bytes of an image's maps as a shard holds them: PNGs of classes, and of segments where there are any."""

    semantic: bytes
    panoptic: bytes | None
    segments: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class LabelMaps:
    """The maps of a split as the source has them.

    Attributes:
        files: the PNG of each image.
        class_of: (256,) int16, what each number in a semantic PNG stands for: a class, `UNLABELLED`, or nothing, -1.
        segments: rows of `SEGMENT_SCHEMA`, sorted by sample, where the PNGs are panoptic; None where they are semantic.
    """

    files: tuple[Path, ...]
    class_of: NDArray[np.int16] | None = None
    segments: pa.RecordBatch | None = None

    def take(self, rows: NDArray[np.int64]) -> Self:
        """The maps of these images, in this order."""
        segments = self.segments
        if segments is not None:
            starts = segment_starts(segments, len(self.files))
            places = [np.arange(*starts[row : row + 2]) for row in rows.tolist()]
            kept = np.concatenate([np.zeros(0, np.int64), *places])
            samples = np.repeat(np.arange(len(rows), dtype=np.int32), [len(place) for place in places])
            segments = segments.take(pa.array(kept)).set_column(0, SEGMENT_SCHEMA.field("sample"), pa.array(samples))
        return replace(self, files=tuple(self.files[row] for row in rows.tolist()), segments=segments)

    def read(self, row: int, size: tuple[int, int]) -> StoredMaps:
        """An image's maps, in the form that shards hold.

        Args:
            row: of the image.
            size: its height and width.

        Raises:
            ValueError: the PNG is missing, broken, of another size or kind, or holds a number that stands for nothing.
        """
        path = self.files[row]
        if not os.path.isfile(path):
            raise ValueError(f"{path.name[:200]} is not in {path.parent}")
        data = path.read_bytes()
        pixels = decode_map(data)
        if pixels.shape[:2] != size:
            raise ValueError(f"{path.name} is {pixels.shape[1]} x {pixels.shape[0]}, its image {size[1]} x {size[0]}")
        if self.segments is None:
            return StoredMaps(png_of(self._classes(pixels, path.name)), None, [])
        if pixels.ndim != 3:
            raise ValueError(f"{path.name} is no RGB image, as a panoptic PNG is")
        first, last = segment_starts(self.segments, len(self.files))[row : row + 2].tolist()
        segments = segment_records(self.segments.slice(first, last - first))
        try:
            classes = semantic_classes(segment_ids(pixels), segments)
        except ValueError as error:
            raise ValueError(f"{path.name}: {error}") from error
        return StoredMaps(png_of(classes), data, segments)

    def _classes(self, pixels: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        if pixels.ndim != 2:
            raise ValueError(f"{name} is no image of class ids: it has {pixels.shape[2]} channels")
        assert self.class_of is not None  # semantic maps have it
        classes = self.class_of[pixels]
        if (classes < 0).any():
            allowed = _spans(np.flatnonzero(self.class_of >= 0).tolist())
            raise ValueError(f"{name} holds {pixels[classes < 0][0]}, the ids are {allowed}")
        return classes.astype(np.uint8)


def numbered_classes(num_classes: int, first_id: int) -> NDArray[np.int16]:
    """`LabelMaps.class_of` for ids that count the classes; 255 is not labelled, nor is what is below the first."""
    class_of = np.full(256, -1, np.int16)
    class_of[first_id : first_id + num_classes] = np.arange(min(num_classes, 256 - first_id))
    class_of[:first_id] = class_of[UNLABELLED] = UNLABELLED
    return class_of


def _spans(numbers: list[int]) -> str:
    """Rising numbers as people write them: 0..18 and 255."""
    first = [number for number in numbers if number - 1 not in numbers]
    last = [number for number in numbers if number + 1 not in numbers]
    return " and ".join(f"{a}..{b}" if a < b else f"{a}" for a, b in zip(first, last, strict=True))


def decode_map(data: bytes) -> NDArray[np.uint8]:
    """A PNG's numbers, (h, w) or (h, w, 3) uint8; those of a palette are its indices, not its colours.

    Raises:
        ValueError: no readable image, or one of another kind.
    """
    try:
        image = Image.open(io.BytesIO(data))
        pixels = np.array(image)
    except UnidentifiedImageError as error:
        raise ValueError("unreadable map: of no known format") from error
    except Exception as error:  # decoders raise nearly anything on a broken file
        raise ValueError(f"unreadable map: {error or type(error).__name__}") from error
    if image.mode not in ("L", "P", "RGB"):
        raise ValueError(f"a map in mode {image.mode}; it must be 8-bit grey, palette or RGB")
    return pixels


def segment_ids(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The number of each pixel's segment, from an RGB PNG: R + 256 G + 256² B (COCO's panoptic format)."""
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    ids: NDArray[np.int32] = red | green << 8 | blue << 16
    return ids


def semantic_classes(ids: NDArray[np.int32], segments: list[dict[str, Any]]) -> NDArray[np.uint8]:
    """The semantic map of a panoptic one: all things are class 0, stuff has its category, no segment is unlabelled.

    Raises:
        ValueError: a number other than 0 that is none of the segments'.
    """
    known = np.array([0, *(segment["id"] for segment in segments)], np.int32)
    classes = [UNLABELLED, *(0 if segment["is_thing"] else segment["category"] for segment in segments)]
    order = np.argsort(known, kind="stable")
    place = np.searchsorted(known[order], ids).clip(max=len(known) - 1)
    lost = known[order][place] != ids
    if lost.any():
        raise ValueError(f"segment {ids[lost][0]} is not in segments_info")
    found: NDArray[np.uint8] = np.array(classes, np.uint8)[order][place]
    return found


def segment_starts(segments: pa.RecordBatch, num_samples: int) -> NDArray[np.int64]:
    """(num_samples + 1,) first row of each sample."""
    return np.searchsorted(view(segments["sample"]), np.arange(num_samples + 1)).astype(np.int64)


def segment_records(segments: pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows as they are given to users: id, category, is_thing, iscrowd."""
    columns = (segments[name].to_pylist() for name in ("segment_id", "category", "is_thing", "crowd"))
    return [
        {"id": number, "category": category, "is_thing": thing, "iscrowd": int(crowd)}
        for number, category, thing, crowd in zip(*columns, strict=True)
    ]


def png_of(pixels: NDArray[np.uint8]) -> bytes:
    """(h, w) or (h, w, 3) uint8 as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
