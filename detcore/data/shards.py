"""Prepared data: tar shards of images, with an index beside them so that any sample is read at random.

A folder of shards, on disk or at a store, holds

* `dataset.json`: categories, and for each split its counts and its shards and tables with their SHA-256;
* `<split>/shard-00000.tar`: KEY.jpg or KEY.png with KEY.json, in the order of the split, as WebDataset reads them. An
  image is a JPEG of 1 or 3 components or an 8-bit grey or RGB PNG: any decoder makes it RGB, EXIF orientation ignored.
  Where the data has them, KEY.semantic.png holds the class of each pixel (255: none) and KEY.panoptic.png the number of
  its segment (R + 256 G + 256² B);
* `<split>/index.arrow`: a row a sample: shard, offset, size and CRC-32 of the image's bytes and of its maps', height,
  width, id, file name;
* `<split>/annotations.arrow`: the objects as columns (`annotations.SCHEMA`);
* `<split>/segments.arrow`: the segments of the panoptic maps (`label_maps.SEGMENT_SCHEMA`), where there are any.

The same samples give the same bytes, whoever owns them and whenever they are written.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from detcore.config.stores import Store
from detcore.data.annotations import Annotations, FlatObjects, Objects
from detcore.data.columns import view
from detcore.data.description import read_description
from detcore.data.federated import FEDERATED_FIELDS, Federated
from detcore.data.keypoints import KeypointLayout
from detcore.data.label_maps import decode_map, segment_ids, segment_records, segment_starts
from detcore.data.shard_files import ShardFiles, open_files
from detcore.ops.jpegs import read_jpegs

INDEX_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image_id", pa.int64()),
        ("file_name", pa.large_string()),
        *((f"{kind}_{what}", pa.int64()) for kind in ("semantic", "panoptic") for what in ("offset", "size")),
        *FEDERATED_FIELDS,
        *((f"{kind}crc32", pa.uint32()) for kind in ("", "semantic_", "panoptic_")),
    ]
)
"""Shards of earlier versions lack the last three, five or nine columns."""
SPLITS = ("train", "val", "test")


class DamagedSample(ValueError):
    """The bytes of a sample are not those that were written. The message names the shard."""


class ShardedSplit:
    """One split of prepared data; any sample is read at random. Safe to use from several threads.

    Attributes:
        name: the data set's name.
        split: 'train', 'val' or 'test'.
        categories: names by 0-based class.
        heights, widths: (n,) int32, pixels.
        image_ids: (n,) int64.
        file_names: (n,) str, as the source has them.
        has_masks: every object that is no crowd region has an outline.
        has_rotated: every object has a rotated box.
        keypoints: what the keypoints of the objects are, or None.
        semantic_classes: names by class of the semantic maps; none where there are no maps.
        has_semantic, has_panoptic: every sample has such a map.
        federated: which classes were looked for in each image; None where all were.
        frequencies: 'r', 'c' or 'f' by class, where the source says which are rare, common or frequent (LVIS).
        max_objects, max_vertices, max_rings: the largest numbers in one image, crowd regions included.
        content_hash: SHA-256 of all splits, the same wherever and whenever they were prepared.
    """

    def __init__(self, files: ShardFiles, split: str, description: dict[str, Any]) -> None:
        """Use `open`."""
        entry = description["splits"][split]
        self._files = files
        self.split = split
        self.name: str = description["name"]
        self.categories: tuple[str, ...] = tuple(description["categories"])
        self.content_hash: str = description["content_hash"]
        self.has_masks: bool = entry["has_masks"]
        self.has_rotated: bool = entry.get("has_rotated", False)
        self.has_semantic: bool = entry.get("has_semantic", False)
        self.has_panoptic: bool = entry.get("has_panoptic", False)
        layout = description.get("keypoints")
        self.keypoints = None if layout is None else KeypointLayout.from_dict(layout)
        self.semantic_classes: tuple[str, ...] = tuple(description.get("semantic_classes", ()))
        index = _read_arrow(files.table("index.arrow"))
        self.heights: NDArray[np.int32] = view(index["height"])
        self.widths: NDArray[np.int32] = view(index["width"])
        self.image_ids: NDArray[np.int64] = view(index["image_id"])
        self._file_names = index["file_name"]
        self.federated = Federated.of(index)
        self.frequencies: tuple[str, ...] = tuple(description.get("frequencies", ()))
        self._shard_of = view(index["shard"])
        names = set(index.schema.names)
        self._places = {
            kind: [view(index[column]) for what in ("offset", "size", "crc32") if (column := f"{kind}{what}") in names]
            for kind, there in (("", True), ("semantic_", self.has_semantic), ("panoptic_", self.has_panoptic))
            if there
        }
        self._segments = _read_arrow(files.table("segments.arrow")) if self.has_panoptic else None
        self._segment_starts = None if self._segments is None else segment_starts(self._segments, len(self.heights))
        self.annotations = Annotations(_read_arrow(files.table("annotations.arrow")), num_samples=len(self.heights))
        self.max_objects, self.max_vertices, self.max_rings = self.annotations.most_in_one_sample()

    @classmethod
    def open(cls, shards: str | Path, split: str, *, store: Store | None = None) -> Self:
        """Opens a split of a folder of shards, or of a URL of one.

        Args:
            shards: a path, or s3://bucket/folder, gs://bucket/folder, http(s)://host/folder.
            split: 'train', 'val' or 'test'.
            store: how to read from a URL.

        Raises:
            ValueError: no prepared data there, no such split, a shard in a folder that is missing or of another size
                than written, or a store that refuses or does not answer.
        """
        description = read_description(shards, store=store)
        if split not in description["splits"]:
            raise ValueError(f"{shards}: no split {split!r}, only {', '.join(description['splits'])}")
        return cls(open_files(shards, split, description["splits"][split], store), split, description)

    @property
    def file_names(self) -> list[str]:
        names: list[str] = self._file_names.to_pylist()
        return names

    @property
    def shards(self) -> list[str]:
        """Path or URL of each shard, as `webdataset.WebDataset` takes them."""
        return [self._files.where(shard) for shard in range(self._files.num_shards)]

    def __len__(self) -> int:
        return len(self.heights)

    def spread(self, count: int) -> list[int]:
        """At most `count` samples, evenly spread over the split: always the same ones."""
        last = len(self) - 1
        places: list[int] = np.unique(np.linspace(0, last, min(count, len(self))).round().astype(int)).tolist()
        return places

    def read(self, index: int) -> bytes:
        """The bytes of one image's file.

        Raises:
            DamagedSample: they are not those that were written.
            StoreError: the store does not answer.
        """
        return self._read("", index)

    def decode_into(self, out: Tensor, indices: Sequence[int]) -> list[bool]:
        """Reads and decodes the images of samples, one after the other in `out`, which is uint8 on the CPU.

        Says which are there: those that are sound JPEGs in files on this machine. `read` has the last word on others.
        """
        offsets, sizes, *checksums = self._places[""]
        rows = []
        for index in indices:
            file = self._files.descriptor(int(self._shard_of[index]))
            checksum = checksums[0][index] if checksums else -1
            place = (offsets[index], sizes[index], checksum, self.heights[index], self.widths[index])
            rows.append((-1 if file is None else file, *map(int, place)))
        done: list[bool] = read_jpegs(torch.tensor(rows).reshape(-1, 6), out).tolist()
        return done

    def objects(self, index: int) -> Objects:
        """The objects of one image, in raw pixels."""
        return self.annotations.objects(
            index,
            height=int(self.heights[index]),
            width=int(self.widths[index]),
            num_keypoints=0 if self.keypoints is None else len(self.keypoints),
            rotated=self.has_rotated,
        )

    def targets(self, index: int) -> FlatObjects | None:
        """The objects of one image that are no crowds, in raw pixels; None where they have more than boxes and
        outlines, or `objects` is the only way."""
        if self.keypoints is not None or self.has_rotated:
            return None
        height, width = int(self.heights[index]), int(self.widths[index])
        return self.annotations.targets(index, height=height, width=width, outlines=self.has_masks)

    def semantic(self, index: int) -> NDArray[np.uint8]:
        """The class of each pixel of one image, (h, w) uint8; 255 does not count.

        Raises:
            ValueError: the split has no semantic maps, or as `read`.
        """
        return decode_map(self._read("semantic_", index))

    def panoptic(self, index: int) -> tuple[NDArray[np.int32], list[dict[str, Any]]]:
        """The segment of each pixel of one image, (h, w) int32, 0 where there is none, and the segments.

        A segment is {"id", "category", "is_thing", "iscrowd"}: the category of a thing is its class, that of stuff its
        class in the semantic map.

        Raises:
            ValueError: the split has no panoptic maps, or as `read`.
        """
        ids = segment_ids(decode_map(self._read("panoptic_", index)))
        assert self._segments is not None and self._segment_starts is not None  # or there were no maps to read
        first, last = self._segment_starts[index : index + 2].tolist()
        return ids, segment_records(self._segments.slice(first, last - first))

    def images_by_class(self) -> list[int]:
        """How many images have each class; crowd regions do not count."""
        labels, starts = self.annotations.labels, self.annotations.starts
        samples = np.repeat(np.arange(len(self)), np.diff(starts))
        kept = ~self.annotations.crowd
        classes = len(self.categories)
        pairs = np.unique(samples[kept] * classes + labels[kept])
        counts: list[int] = np.bincount(pairs % classes, minlength=classes).tolist()
        return counts

    def to_coco(self) -> dict[str, Any]:
        """The ground truth as COCO's JSON, values exactly as in the source; category_id is the class + 1.

        Rotated boxes are `bbox_rotated`, (cx, cy, w, h, angle in degrees, counter-clockwise); `bbox` is then the
        upright box around. Federated data has LVIS's keys besides: neg_category_ids and not_exhaustive_category_ids of
        an image, frequency of a category.
        """
        sizes = zip(self.image_ids.tolist(), self.file_names, self.heights.tolist(), self.widths.tolist(), strict=True)
        starts = self.annotations.starts.tolist()
        return {
            "images": [
                {"id": i, "file_name": name, "height": h, "width": w, **self._looked_for(row)}
                for row, (i, name, h, w) in enumerate(sizes)
            ],
            "annotations": [
                self.annotations.record(row, image_id=image_id)
                for image_id, first, last in zip(self.image_ids.tolist(), starts[:-1], starts[1:], strict=True)
                for row in range(first, last)
            ],
            "categories": [
                {"id": i, "name": name, **self._keypoint_names(), **self._frequency(i - 1)}
                for i, name in enumerate(self.categories, 1)
            ],
        }

    def _keypoint_names(self) -> dict[str, Any]:
        """As COCO's categories have them, which count from 1."""
        if self.keypoints is None:
            return {}
        lines = [[a + 1, b + 1] for a, b in self.keypoints.skeleton]
        return {"keypoints": list(self.keypoints.names), "skeleton": lines}

    def _looked_for(self, index: int) -> dict[str, list[int]]:
        return {} if self.federated is None else self.federated.record(index)

    def _frequency(self, label: int) -> dict[str, str]:
        return {"frequency": self.frequencies[label]} if self.frequencies else {}

    def prefetch(self) -> None:
        """Begins to bring shards of a store to this machine's disk, in the background; nothing for a folder."""
        self._files.prefetch()

    def close(self) -> None:
        """Closes the shards; a later read opens them again."""
        self._files.close()

    def _read(self, kind: str, index: int) -> bytes:
        if kind not in self._places:
            raise ValueError(f"{self.name}: the {self.split} split has no {kind.rstrip('_')} maps")
        shard = int(self._shard_of[index])
        offset, size, *crc32 = (int(place[index]) for place in self._places[kind])
        data = self._files.read(shard, offset, size)
        if len(data) != size:
            raise DamagedSample(f"{self._files.where(shard)}: sample {index} is cut off; prepare the data again")
        if crc32 and zlib.crc32(data) != crc32[0]:
            where = f"{self._files.where(shard)}: sample {index}"
            raise DamagedSample(f"{where} has another checksum than was written; prepare the data again")
        return data


def _read_arrow(path: Path) -> pa.RecordBatch:
    """The one batch of a file, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
