"""The splits that raw data lacks, drawn from train."""

import hashlib
from dataclasses import replace

import numpy as np

from detcore.config import DataConfig
from detcore.data.formats import RawDataset
from detcore.data.formats.raw import listing


def with_missing_splits(raw: RawDataset, config: DataConfig, *, seed: int) -> RawDataset:
    """Takes val and test from train where the data has none.

    Images are drawn by the hash of seed and file name, so a set that grows keeps most of them where they were.

    Raises:
        ValueError: no train split, or a split without images.
    """
    if "train" not in raw.splits:
        raise ValueError(f"{config.root}: no train split, only {listing(sorted(raw.splits))}; set data.splits")
    train = raw.splits["train"]
    names = train.images["file_name"].to_pylist()
    order = sorted(range(len(names)), key=lambda row: hashlib.sha256(f"{seed}/{names[row]}".encode()).digest())
    splits = dict(raw.splits)
    for name, fraction in (("val", config.val_fraction), ("test", config.test_fraction)):
        if name not in raw.splits and fraction > 0:
            number = max(1, round(fraction * len(names)))
            splits[name] = train.take(np.array(sorted(order[:number]), np.int64))
            order = order[number:]
    splits["train"] = train.take(np.array(sorted(order), np.int64))
    for name, split in splits.items():
        if split.images.num_rows == 0:
            raise ValueError(
                f"{split.source}: the {name} split has no images; the data's own train has {len(names)}, from which"
                f" data.val_fraction = {config.val_fraction:g} and data.test_fraction = {config.test_fraction:g} draw"
                " the splits that are missing"
            )
    return replace(raw, splits=splits)
