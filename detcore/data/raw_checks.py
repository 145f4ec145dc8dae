"""What is wrong with a raw data set as a whole: an error that names it."""

import os

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


def refuse_absent_images(split: RawSplit) -> None:
    """Raises ValueError where images are listed that are not there."""
    absent = [name for name in split.images["file_name"].to_pylist() if not (split.folder / name).is_file()]
    if absent:
        raise ValueError(f"{split.source}: {len(absent)} images are not in {split.folder}: {listing(absent)}")


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
