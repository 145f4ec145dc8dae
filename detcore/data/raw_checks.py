"""What is wrong with a raw data set as a whole: an error that names it."""

import os
from dataclasses import replace

import numpy as np

from detcore.data.formats import RawDataset, RawSplit
from detcore.data.formats.raw import listing


def refuse_shared_images(raw: RawDataset) -> None:
    """Raises ValueError where two splits have one image."""
    owner: dict[str, str] = {}
    for name, split in raw.splits.items():
        for file in split.images["file_name"].to_pylist():
            path = os.path.normpath(split.folder / file)
            other = owner.setdefault(path, name)
            if other != name:
                raise ValueError(f"{path}: the image is both in {other} and in {name}; a split must have its own")


def without_absent_images(raw: RawDataset, *, skip: bool) -> tuple[RawDataset, dict[str, list[str]]]:
    """The data without the images that are listed but not there, and their names by split.

    Raises:
        ValueError: there are such images and they are not to be skipped, or none of a split's is there.
    """
    splits, absent = {}, {}
    for name, split in raw.splits.items():
        files = split.images["file_name"].to_pylist()
        there = np.array([os.path.isfile(split.folder / file) for file in files], np.bool_)
        absent[name] = [file for file, found in zip(files, there, strict=True) if not found]
        if absent[name] and not (skip and there.any()):
            hint = "" if skip else "; to do without them: data.absent_images=skip"
            raise ValueError(
                f"{split.source}: {len(absent[name])} images are not in {split.folder}: {listing(absent[name])}{hint}"
            )
        splits[name] = split.take(np.flatnonzero(there)) if absent[name] else split
    return replace(raw, splits=splits), absent


def refuse_other_sizes(
    split: RawSplit, rows: list[int], declared: list[tuple[int, int]], sizes: list[tuple[int, int]]
) -> None:
    """Raises ValueError where images have another size than annotated: boxes would be wrong without a trace."""
    files = split.images["file_name"].to_pylist()
    wrong = [
        f"{files[row]} is {size[1]} x {size[0]}, not {declared[row][1]} x {declared[row][0]}"
        for row, size in zip(rows, sizes, strict=True)
        if all(declared[row]) and declared[row] != size
    ]
    if wrong:
        raise ValueError(
            f"{split.source}: {len(wrong)} images have another size than annotated: {listing(wrong, most=3)}"
        )
