"""What is wrong with objects and classes."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detcore.config.data import DataConfig
from detcore.data.augmentation.sizes import content_sizes
from detcore.data.checking.findings import Finding, finding
from detcore.data.cleaning import NO_AREA, NO_OUTLINE, NOT_FINITE, OUTSIDE, clean
from detcore.data.formats import RawDataset, RawSplit
from detcore.data.statistics.columns import of_raw

_TINY_SIDE = 4.0
"""Pixels of the network's input: the stride of the finest features that detectors look at."""
_RARE = 10
_DROPPED = {
    NOT_FINITE: "not_finite",
    NO_AREA: "degenerate_box",
    OUTSIDE: "outside_image",
    NO_OUTLINE: "empty_segmentation",
}
"""What prepare's reasons to drop an object are called here."""


def check_objects(splits: Mapping[str, RawSplit], config: DataConfig) -> list[Finding]:
    """The findings about the objects of splits whose images have their true sizes and can all be read."""
    places: dict[str, list[str]] = defaultdict(list)
    number = images = 0
    for name, split in splits.items():
        number += split.objects.num_rows
        images += split.images.num_rows
        try:
            cleaned = clean(split, min_box_size=config.min_box_size)
        except ValueError as error:
            places["broken_mask"].append(f"{name}: {error}")
            continue
        dropped = {_DROPPED[reason]: objects for reason, objects in cleaned.dropped.items()}
        for code, objects in {**dropped, "clipped_box": cleaned.clipped}.items():
            places[code] += [f"{name}: {file}: annotation {key}" for file, key in objects]
        for reason, objects in split.left_out.items():
            places["no_target"] += [f"{name}: {file}: annotation {key}: {reason}" for file, key in objects]
        places["tiny"] += _tiny(name, cleaned.split, config)
        if split.maps is None:
            files = np.array(split.images["file_name"].to_pylist(), dtype=object)
            bare = np.setdiff1d(np.arange(len(files)), split.objects["sample"].to_numpy())
            places["without_objects"] += [f"{name}: {file}" for file in files[bare].tolist()]
    of = {"without_objects": images}
    return [one for code, where in places.items() for one in finding(code, where, of=of.get(code, number))]


def _tiny(name: str, split: RawSplit, config: DataConfig) -> list[str]:
    """By the resize that evaluation takes; crowd regions aside."""
    columns = of_raw(split)
    if not len(columns.sizes):
        return []
    resized = content_sizes(columns.sizes, config.test_transforms, np.zeros(len(columns.sizes), np.int64))
    height, width = (resized / columns.sizes)[columns.samples].T
    # A rotated box's own sides lie along no axis: the resize's lesser factor errs on the side of telling.
    factors = np.stack([width, height], axis=1)
    if split.objects["bbox_rotated"].null_count < split.objects.num_rows:
        factors = factors.min(axis=1, keepdims=True)
    sides = columns.sides * factors
    rows = np.flatnonzero((sides < _TINY_SIDE).any(axis=1) & ~columns.crowd)
    return describe_objects(name, split, rows)


def describe_objects(name: str, split: RawSplit, rows: NDArray[np.int64]) -> list[str]:
    """Objects by split, file and annotation id."""
    files, ids = split.images["file_name"], split.objects["annotation_id"].to_numpy()[rows].tolist()
    samples = split.objects["sample"].to_numpy()[rows].tolist()
    return [f"{name}: {files[sample].as_py()}: annotation {key}" for sample, key in zip(samples, ids, strict=True)]


def check_classes(raw: RawDataset) -> list[Finding]:
    """The findings about the names of classes, and how often training has them."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in raw.categories:
        alike[re.sub(r"[\s_-]+", "", name).casefold()].append(name)
    places = {"alike_names": [" = ".join(map(repr, names)) for names in alike.values() if len(names) > 1]}
    train = raw.splits.get("train")
    if train is not None and raw.categories:
        kept = ~train.objects["crowd"].to_numpy(zero_copy_only=False)
        counts = np.bincount(train.objects["label"].to_numpy()[kept], minlength=len(raw.categories)).tolist()
        others = _elsewhere(raw)
        places["unused_class"] = [
            name + (f" ({', '.join(others[label])})" if others[label] else "")
            for label, name in enumerate(raw.categories)
            if not counts[label]
        ]
        places["rare_class"] = [
            f"{name}: {counts[label]}" for label, name in enumerate(raw.categories) if 0 < counts[label] < _RARE
        ]
    return [one for code, where in places.items() for one in finding(code, where, of=len(raw.categories))]


def _elsewhere(raw: RawDataset) -> list[Sequence[str]]:
    """For each class, how many objects the splits besides train have."""
    found: list[list[str]] = [[] for _ in raw.categories]
    for name, split in raw.splits.items():
        if name != "train":
            counts = np.bincount(split.objects["label"].to_numpy(), minlength=len(raw.categories)).tolist()
            for label, count in enumerate(counts):
                if count:
                    found[label].append(f"{count} in {name}")
    return list(found)
