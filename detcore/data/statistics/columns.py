"""The columns that statistics are made of, alike for raw and for prepared data."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detcore.config import Config, DataConfig
from detcore.data.description import read_description
from detcore.data.formats import RawSplit
from detcore.data.formats.raw import upright_size
from detcore.data.label_maps import UNLABELLED, decode_map
from detcore.data.prepared import is_prepared
from detcore.data.selection import select
from detcore.data.shards import SPLITS, ShardedSplit
from detcore.data.some import read_splits

_MOST_MAPS = 300
"""Maps of classes that are read, evenly over a split: shares of pixels need no more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitColumns:
    """One split of n images and m objects, crowd regions among them.

    Attributes:
        sizes: (n, 2) int64, heights and widths in pixels.
        samples: (m,) int64, the image of each object.
        labels: (m,) int64, 0-based classes.
        crowd: (m,) bool.
        sides: (m, 2) float64, width and height of the boxes in pixels; of rotated ones their own.
        areas: (m,) float64, square pixels, as the source says (COCO: of the mask).
        class_pixels: (number of semantic classes,) int64, pixels of `num_maps` maps; None without maps.
        num_maps: how many maps were counted.
        selected: (k,) int64, rising rows of the images that training takes; None where nobody chose any.
    """

    sizes: NDArray[np.int64]
    samples: NDArray[np.int64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    sides: NDArray[np.float64]
    areas: NDArray[np.float64]
    class_pixels: NDArray[np.int64] | None = None
    num_maps: int = 0
    selected: NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetColumns:
    """All splits of a data set, in the order train, val, test, and the names of its classes."""

    categories: tuple[str, ...]
    semantic_classes: tuple[str, ...]
    splits: dict[str, SplitColumns]
    prepared: bool


def read_columns(config: Config) -> DatasetColumns:
    """The data that a configuration is about: prepared ones where they are, else the raw folder.

    Raises:
        ValueError: neither is there, or something is wrong with the raw data.
    """
    if is_prepared(config.data, seed=config.seed):
        shards, store = config.data.shards, config.data.store
        names = [name for name in SPLITS if name in read_description(shards, store=store)["splits"]]
        opened = {name: ShardedSplit.open(shards, name, store=store) for name in names}
        first = opened[names[0]]
        categories, semantic_classes = first.categories, first.semantic_classes
        columns = {name: _of_shards(split, config.data) for name, split in opened.items()}
        return DatasetColumns(categories=categories, semantic_classes=semantic_classes, splits=columns, prepared=True)
    raw = read_splits(config)
    return DatasetColumns(
        categories=raw.categories,
        semantic_classes=raw.semantic_classes,
        splits={name: of_raw(raw.splits[name], len(raw.semantic_classes)) for name in SPLITS if name in raw.splits},
        prepared=False,
    )


def of_raw(split: RawSplit, num_semantic: int = 0) -> SplitColumns:
    """A raw split; sizes that the annotations do not state are those of the files, (0, 0) where one cannot be read."""
    images, objects = split.images, split.objects
    sizes = np.stack([images[side].to_numpy() for side in ("height", "width")], axis=1).astype(np.int64)
    files = images["file_name"].to_pylist()
    for row in np.flatnonzero((sizes <= 0).any(axis=1)).tolist():
        sizes[row] = upright_size(split.folder / files[row])
    sides = objects["bbox"].flatten().to_numpy().reshape(-1, 4)[:, 2:]
    if objects.num_rows and objects["bbox_rotated"].null_count == 0:
        sides = objects["bbox_rotated"].flatten().to_numpy().reshape(-1, 5)[:, 2:4]
    maps = split.maps

    def semantic(row: int) -> NDArray[np.uint8]:
        assert maps is not None
        try:
            return decode_map(maps.read(row, (int(sizes[row, 0]), int(sizes[row, 1]))).semantic)
        except ValueError as error:
            raise ValueError(f"map of {files[row]}: {error}; 'detcore data check' lists all such") from error

    pixels, num_maps = _count_pixels(semantic, len(sizes), num_semantic if maps is not None else 0)
    return SplitColumns(
        sizes=sizes,
        samples=objects["sample"].to_numpy().astype(np.int64),
        labels=objects["label"].to_numpy().astype(np.int64),
        crowd=objects["crowd"].to_numpy(zero_copy_only=False),
        sides=sides,
        areas=objects["area"].to_numpy(),
        class_pixels=pixels,
        num_maps=num_maps,
    )


def _of_shards(split: ShardedSplit, config: DataConfig) -> SplitColumns:
    annotations = split.annotations
    sides = annotations.boxes_xywh[:, 2:]
    if split.has_rotated:
        sides = annotations.numbers("bbox_rotated", slice(0, len(annotations)), 5)[:, 2:4]
    pixels, num_maps = _count_pixels(
        split.semantic, len(split), len(split.semantic_classes) if split.has_semantic else 0
    )
    return SplitColumns(
        sizes=np.stack([split.heights, split.widths], axis=1).astype(np.int64),
        samples=np.repeat(np.arange(len(split)), np.diff(annotations.starts)),
        labels=annotations.labels.astype(np.int64),
        crowd=annotations.crowd,
        sides=sides,
        areas=annotations.areas,
        class_pixels=pixels,
        num_maps=num_maps,
        selected=select(split, config).samples if split.split == "train" else None,
    )


def _count_pixels(
    read: Callable[[int], NDArray[np.uint8]], num_images: int, num_classes: int
) -> tuple[NDArray[np.int64] | None, int]:
    if not num_classes or not num_images:
        return None, 0
    counts = np.zeros(256, np.int64)
    rows = np.unique(np.linspace(0, num_images - 1, min(num_images, _MOST_MAPS)).round().astype(np.int64))
    for row in rows.tolist():
        counts += np.bincount(read(row).reshape(-1), minlength=256)
    assert num_classes <= UNLABELLED  # a map is uint8
    return counts[:num_classes], len(rows)
