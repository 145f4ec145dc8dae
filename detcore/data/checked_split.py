"""The images and objects of a split, checked one by one before anything is written."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detcore.config import DataConfig
from detcore.data.cleaning import clean
from detcore.data.formats import RawSplit
from detcore.data.formats.raw import IMAGE_SCHEMA, listing
from detcore.data.images import read_image
from detcore.data.label_maps import LabelMaps
from detcore.data.progress import track
from detcore.data.raw_checks import refuse_other_sizes
from detcore.data.report import SplitReport


@dataclass(frozen=True, kw_only=True)
class CheckedSplit:
    """A split ready to be written.

    Attributes:
        split: images in order, with their true sizes, and their clean objects.
        declared: height and width of each image as the annotations say.
        kept: whether the bytes of each image's file may stay.
        report: what was left out.
    """

    split: RawSplit
    declared: list[tuple[int, int]]
    kept: NDArray[np.bool_]
    report: SplitReport


def check_split(
    split: RawSplit,
    config: DataConfig,
    name: str,
    *,
    pool: ThreadPoolExecutor,
    categories: tuple[str, ...],
    absent: list[str],
    progress: bool,
) -> CheckedSplit:
    """Decodes every image once, then cleans the objects of those that can be read.

    Args:
        split: whose images are all there; `absent` names those that were not.
        name: of the split.

    Raises:
        ValueError: too many unreadable images, images of another size than annotated, or objects that cannot be read.
    """
    files = split.images["file_name"].to_pylist()
    declared = list(zip(*(split.images[side].to_pylist() for side in ("height", "width")), strict=True))
    paths = [split.folder / file for file in files]
    check_image = partial(_check_image, maps=split.maps, max_pixels=config.max_image_pixels)
    checks = pool.map(check_image, paths, declared, range(len(files)))
    sizes, kept, skipped = [], [], {}
    readable = []
    for row, check in enumerate(
        track(checks, f"{config.name} {name}: checking images", total=len(files), shown=progress)
    ):
        if isinstance(check, str):
            skipped[files[row]] = check
        else:
            readable.append(row)
            sizes.append(check[:2])
            kept.append(check[2])
    if len(skipped) > config.max_corrupt_fraction * len(files) or not readable:
        allowed = f", more than data.max_corrupt_fraction = {config.max_corrupt_fraction:g}" if readable else ""
        raise ValueError(
            f"{split.source}: {len(skipped)} of {len(files)} {name} images cannot be read{allowed}:"
            f" {listing(list(skipped))} (the first: {next(iter(skipped.values()))})"
        )
    refuse_other_sizes(split, readable, declared, sizes)
    split = split.take(np.array(readable, np.int64))
    columns = [*split.images.columns[:2], *(pa.array(side, pa.int32()) for side in zip(*sizes, strict=True))]
    split = replace(split, images=pa.RecordBatch.from_arrays(columns, schema=IMAGE_SCHEMA))
    cleaned = clean(split, min_box_size=config.min_box_size)
    report = SplitReport.of(cleaned, categories=categories, skipped=skipped, absent=absent, converted=kept.count(False))
    return CheckedSplit(
        split=cleaned.split, declared=[declared[row] for row in readable], kept=np.array(kept), report=report
    )


def _check_image(
    path: Path, declared: tuple[int, int], row: int, *, maps: LabelMaps | None, max_pixels: int
) -> tuple[int, int, bool] | str:
    """Height, width and whether the file's bytes may stay; or why it or its map cannot be read."""
    try:
        image, kept = read_image(path.read_bytes(), declared=declared, max_pixels=max_pixels)
        if maps is not None:
            maps.read(row, (image.height, image.width))
    except ValueError as error:
        return str(error)
    return image.height, image.width, kept
