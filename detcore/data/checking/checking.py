"""The check: annotations, images, objects, classes, in this order."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from detcore.config import Config
from detcore.config.data import DataConfig
from detcore.data.checking.findings import CheckReport, Finding, finding
from detcore.data.checking.health import health_of_files, health_of_splits
from detcore.data.checking.images import ImageFacts, check_images, look_at_images
from detcore.data.checking.kinds import LEVELS
from detcore.data.checking.objects import check_classes, check_objects
from detcore.data.formats import RawSplit, read_raw
from detcore.data.formats.coco import find_json
from detcore.data.formats.raw import IMAGE_SCHEMA
from detcore.data.locate import locate
from detcore.data.shards import SPLITS
from detcore.data.some import raw_folder


def check(data: str | Path | Config, *, format: str | None = None, progress: bool = False) -> CheckReport:
    """Looks for what is wrong with raw data: hotcoco's health check, and what the images and all splits together show.

    Every image is decoded. Nothing is written.

    Args:
        data: a raw folder, or a whole configuration.
        format: of a folder; None tells it by the files.
        progress: show it on stderr.

    Raises:
        ValueError: there is no such folder, or nobody can tell its format.
    """
    config = (data if isinstance(data, Config) else locate([str(data)], format=format)).data
    root = raw_folder(config)
    try:
        raw = read_raw(config, root)
    except ValueError as error:
        found = finding("annotations", [" ".join(str(error).split())])
        return _report(config, {}, [*found, *health_of_files(_coco_files(config, root))])
    splits = {name: raw.splits[name] for name in SPLITS if name in raw.splits}
    facts = {
        name: look_at_images(
            split,
            f"{config.name} {name}: decoding images",
            max_pixels=config.max_image_pixels,
            progress=progress,
        )
        for name, split in splits.items()
    }
    readable = {name: _readable(split, facts[name]) for name, split in splits.items()}
    found = [
        *check_images(splits, facts),
        *check_objects(readable, config),
        *health_of_splits(readable),
        *check_classes(replace(raw, splits=splits)),
    ]
    return _report(config, splits, found)


def _coco_files(config: DataConfig, root: Path) -> dict[str, Path]:
    """The annotation files of COCO data, by split; none for other formats, or where they cannot be found."""
    if config.format not in ("coco", "coco_rotated"):
        return {}
    if config.splits is not None:
        return {name: root / split.annotations for name, split in config.splits.items()}
    try:
        return find_json(root)
    except ValueError:
        return {}


def _readable(split: RawSplit, facts: list[ImageFacts | None]) -> RawSplit:
    """The images that can be decoded, with their true sizes, and their objects."""
    rows = [row for row, own in enumerate(facts) if own is not None and own.error is None]
    sizes = np.array([own.size for own in facts if own is not None and own.error is None], np.int32).reshape(-1, 2)
    kept = split.take(np.array(rows, np.int64))
    columns = [*kept.images.columns[:2], pa.array(sizes[:, 0]), pa.array(sizes[:, 1])]
    return replace(kept, images=pa.RecordBatch.from_arrays(columns, schema=IMAGE_SCHEMA))


def _report(config: DataConfig, splits: Mapping[str, RawSplit], found: list[Finding]) -> CheckReport:
    return CheckReport(
        name=config.name,
        format=config.format,
        images={name: split.images.num_rows for name, split in splits.items()},
        objects={name: split.objects.num_rows for name, split in splits.items()},
        findings=tuple(sorted(found, key=lambda one: LEVELS.index(one.level))),
    )
