"""Prepared data on disk: tar shards of images, with an index beside them so that any sample is read at random.

A folder of shards holds

* `dataset.json`: categories, and for each split its counts and its shards with their SHA-256;
* `<split>/shard-00000.tar`: KEY.jpg or KEY.png with KEY.json, in the order of the split, as WebDataset reads them. An
  image is a JPEG of 1 or 3 components or an 8-bit grey or RGB PNG: any decoder makes it RGB, EXIF orientation ignored;
* `<split>/index.arrow`: a row a sample: shard, offset and size of the image's bytes, height, width, id, file name;
* `<split>/annotations.arrow`: the objects as columns (`annotations.SCHEMA`).

The same samples give the same bytes, whoever owns them and whenever they are written.
"""

import json
import os
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detcore.data.annotations import Annotations, Objects

FORMAT_VERSION = 1
INDEX_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image_id", pa.int64()),
        ("file_name", pa.large_string()),
    ]
)
SPLITS = ("train", "val", "test")


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
        max_objects, max_vertices, max_rings: the largest numbers in one image, crowd regions included.
        content_hash: SHA-256 of all splits, the same wherever and whenever they were prepared.
    """

    def __init__(self, folder: Path, split: str, description: dict[str, Any]) -> None:
        """Use `open`."""
        entry = description["splits"][split]
        self.folder = folder
        self.split = split
        self.name: str = description["name"]
        self.categories: tuple[str, ...] = tuple(description["categories"])
        self.content_hash: str = description["content_hash"]
        self.has_masks: bool = entry["has_masks"]
        self._shards = [folder / split / shard["name"] for shard in entry["shards"]]
        index = _read_arrow(folder / split / "index.arrow")
        self.heights: NDArray[np.int32] = index["height"].to_numpy()
        self.widths: NDArray[np.int32] = index["width"].to_numpy()
        self.image_ids: NDArray[np.int64] = index["image_id"].to_numpy()
        self._file_names = index["file_name"]
        self._places = [index[name].to_numpy() for name in ("shard", "offset", "size")]
        self.annotations = Annotations(_read_arrow(folder / split / "annotations.arrow"), num_samples=len(self.heights))
        self.max_objects, self.max_vertices, self.max_rings = self.annotations.most_in_one_sample()
        self._descriptors: dict[int, int] = {}

    @classmethod
    def open(cls, shards: Path, split: str) -> Self:
        """Opens a split of a folder of shards.

        Raises:
            ValueError: no prepared data there, no such split, or a shard that is missing or of another size than
                written.
        """
        description = read_description(shards)
        if split not in description["splits"]:
            raise ValueError(f"{shards}: no split {split!r}, only {', '.join(description['splits'])}")
        for shard in description["splits"][split]["shards"]:
            path = shards / split / shard["name"]
            size = path.stat().st_size if path.is_file() else None
            if size != shard["bytes"]:
                raise ValueError(f"{path}: {size or 'no'} bytes, {shard['bytes']} were written; prepare the data again")
        return cls(Path(shards), split, description)

    @property
    def file_names(self) -> list[str]:
        names: list[str] = self._file_names.to_pylist()
        return names

    def __len__(self) -> int:
        return len(self.heights)

    def read(self, index: int) -> bytes:
        """The bytes of one image's file.

        Raises:
            ValueError: the shard is shorter than its index says.
        """
        shard, offset, size = (int(place[index]) for place in self._places)
        data = os.pread(self._descriptor(shard), size, offset)
        if len(data) != size:
            raise ValueError(f"{self._shards[shard]}: sample {index} is cut off; prepare the data again")
        return data

    def objects(self, index: int) -> Objects:
        """The objects of one image, in raw pixels."""
        return self.annotations.objects(index, height=int(self.heights[index]), width=int(self.widths[index]))

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
        """The ground truth as COCO's JSON, values exactly as in the source; category_id is the class + 1."""
        sizes = zip(self.image_ids.tolist(), self.file_names, self.heights.tolist(), self.widths.tolist(), strict=True)
        starts = self.annotations.starts.tolist()
        return {
            "images": [{"id": i, "file_name": name, "height": h, "width": w} for i, name, h, w in sizes],
            "annotations": [
                self.annotations.record(row, image_id=image_id)
                for image_id, first, last in zip(self.image_ids.tolist(), starts[:-1], starts[1:], strict=True)
                for row in range(first, last)
            ],
            "categories": [{"id": i, "name": name} for i, name in enumerate(self.categories, 1)],
        }

    def close(self) -> None:
        """Closes the shards; a later read opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _descriptor(self, shard: int) -> int:
        found = self._descriptors.get(shard)
        if found is None:
            opened = os.open(self._shards[shard], os.O_RDONLY | os.O_CLOEXEC)
            found = self._descriptors.setdefault(shard, opened)
            if found != opened:  # another thread was quicker
                os.close(opened)
        return found


def read_description(shards: Path) -> dict[str, Any]:
    """The `dataset.json` of a folder of shards.

    Raises:
        ValueError: there is none, or it is of another version.
    """
    path = Path(shards) / "dataset.json"
    if not path.is_file():
        raise ValueError(f"{shards}: no prepared data (dataset.json is missing); run the prepare stage")
    description: dict[str, Any] = json.loads(path.read_bytes())
    if description.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path}: not of format version {FORMAT_VERSION}; prepare the data again")
    return description


def _read_arrow(path: Path) -> pa.RecordBatch:
    """The one batch of a file, mapped into memory."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
