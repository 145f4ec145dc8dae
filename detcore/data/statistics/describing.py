"""Columns to numbers: counts, quantiles, and how far the splits are apart."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detcore.config import Config
from detcore.data.statistics.columns import DatasetColumns, SplitColumns, read_columns
from detcore.data.statistics.comparing import Difference, compare_splits, cooccurrence
from detcore.data.statistics.padding import Padding, padding

SMALL, MEDIUM = 32.0**2, 96.0**2
"""COCO's bounds of an object's area in square pixels: small, medium, large."""
_QUANTILES = {"min": 0.0, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
_MOST_SIZES = 10


@dataclass(frozen=True, kw_only=True)
class SplitStatistics:
    """One split. Crowd regions count in `crowd` alone.

    Attributes:
        images, images_without_objects, objects, crowd: how many.
        objects_by_class, images_by_class: by name of the class.
        areas: how many objects are small, medium and large, by COCO's bounds.
        objects_per_image, box_size, relative_box_size, aspect_ratio: quantiles and mean; a box's size is the root of
            its area, in pixels or over that of the image's; its aspect ratio is width / height.
        image_height, image_width: quantiles and mean, in pixels.
        image_sizes: how many images have each of the ten most frequent sizes, 'width x height'.
        pixels_by_class: share of the labelled pixels, by name of the semantic class; None without maps.
    """

    images: int
    images_without_objects: int
    objects: int
    crowd: int
    objects_by_class: dict[str, int]
    images_by_class: dict[str, int]
    areas: dict[str, int]
    objects_per_image: dict[str, float]
    box_size: dict[str, float]
    relative_box_size: dict[str, float]
    aspect_ratio: dict[str, float]
    image_height: dict[str, float]
    image_width: dict[str, float]
    image_sizes: dict[str, int]
    pixels_by_class: dict[str, float] | None


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """A data set.

    Attributes:
        name: the data set's.
        splits: by name, train first.
        differences: of val and test to train; none where there are maps alone.
        cooccurrence: names of at most 20 classes, the most frequent, and for each pair in how many training images both
            are; None with fewer than two classes.
        padding: what the batches of training's first epoch are padded with.
    """

    name: str
    splits: dict[str, SplitStatistics]
    differences: dict[str, Difference]
    cooccurrence: tuple[list[str], list[list[int]]] | None
    padding: Padding

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold."""
        return asdict(self)


def describe(config: Config) -> tuple[Statistics, DatasetColumns]:
    """Statistics of the data of a configuration, prepared or raw, and the columns that they were made of.

    Raises:
        ValueError: the data are not there, or something is wrong with them; no train split.
    """
    columns = read_columns(config)
    if "train" not in columns.splits:
        raise ValueError(f"{config.data.name}: no train split, only {', '.join(columns.splits)}")
    train = columns.splits["train"]
    statistics = Statistics(
        name=config.data.name,
        splits={name: describe_split(split, columns) for name, split in columns.splits.items()},
        differences={
            name: compare_splits(train, split, columns.categories)
            for name, split in columns.splits.items()
            if name != "train" and columns.categories
        },
        cooccurrence=cooccurrence(train, columns.categories),
        padding=padding(train, config),
    )
    return statistics, columns


def describe_split(split: SplitColumns, data: DatasetColumns) -> SplitStatistics:
    """The numbers of one split."""
    kept = ~split.crowd
    samples, labels, areas = split.samples[kept], split.labels[kept], split.areas[kept]
    number, classes = len(split.sizes), len(data.categories)
    per_image = np.bincount(samples, minlength=number)
    pairs = np.unique(samples * max(classes, 1) + labels) % max(classes, 1)
    size, relative, aspect = box_measures(split)
    sizes = Counter(f"{width} x {height}" for height, width in split.sizes.tolist())
    pixels = None
    if split.class_pixels is not None:
        shares = split.class_pixels / max(int(split.class_pixels.sum()), 1)
        pixels = dict(zip(data.semantic_classes, shares.tolist(), strict=True))
    return SplitStatistics(
        images=number,
        images_without_objects=int((per_image == 0).sum()),
        objects=len(labels),
        crowd=int(split.crowd.sum()),
        objects_by_class=_by_name(labels, data.categories),
        images_by_class=_by_name(pairs, data.categories),
        areas={
            "small": int((areas < SMALL).sum()),
            "medium": int(((areas >= SMALL) & (areas <= MEDIUM)).sum()),
            "large": int((areas > MEDIUM).sum()),
        },
        objects_per_image=quantiles(per_image),
        box_size=quantiles(size),
        relative_box_size=quantiles(relative),
        aspect_ratio=quantiles(aspect),
        image_height=quantiles(split.sizes[:, 0]),
        image_width=quantiles(split.sizes[:, 1]),
        image_sizes=dict(sizes.most_common(_MOST_SIZES)),
        pixels_by_class=pixels,
    )


def box_measures(
    split: SplitColumns,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Size in pixels, size relative to the image, and width / height of the boxes that enclose something.

    Crowd regions are left out.
    """
    there = ~split.crowd & (split.sides > 0).all(axis=1) & np.isfinite(split.sides).all(axis=1)
    width, height = split.sides[there].T
    image = split.sizes[split.samples[there]].prod(axis=1)
    size = np.sqrt(width * height)
    return size, size / np.sqrt(np.maximum(image, 1)), width / height


def quantiles(values: NDArray[Any]) -> dict[str, float]:
    """min, p05, p25, median, p75, p95, max and mean; nothing of nothing."""
    if not len(values):
        return {}
    found = dict(zip(_QUANTILES, np.quantile(values, list(_QUANTILES.values())).tolist(), strict=True))
    return {**found, "mean": float(values.mean())}


def _by_name(labels: NDArray[np.int64], names: tuple[str, ...]) -> dict[str, int]:
    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
