"""From a raw folder to shards: obtain, read, validate, split, write, report."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detcore.config import DataConfig
from detcore.config.data import MAX_IMAGE_PIXELS
from detcore.data.annotations import Annotations
from detcore.data.cleaning import clean
from detcore.data.fingerprint import fingerprint
from detcore.data.formats import RawDataset, RawSplit, read_raw
from detcore.data.formats.raw import IMAGE_SCHEMA, listing
from detcore.data.images import StoredImage, read_image, store_image
from detcore.data.label_maps import LabelMaps, StoredMaps
from detcore.data.progress import track
from detcore.data.raw_checks import refuse_absent_images, refuse_other_sizes, refuse_shared_images
from detcore.data.report import Report, SplitReport
from detcore.data.shard_writing import SplitWriter, replace_folder, write_description
from detcore.data.shards import SPLITS
from detcore.data.sources import obtain

SETTINGS = "settings.sha256"
"""The file that says of which part of the configuration (its first line) and raw files (its second) the shards are."""
_LOADING = {
    *("shards", "sampling", "train_subset", "min_objects", "min_keypoints", "train_transforms", "test_transforms"),
    *("min_visible", "unmixed_last_steps", "num_buckets", "size_divisor", "threads", "prefetch_bytes", "decode"),
}
"""What of the configuration decides how shards are read."""


def prepare(config: DataConfig, *, seed: int, progress: bool = True) -> Report:
    """Writes the folder `config.shards` from the raw data, fetching or making that first where it is not there.

    All is checked before anything is written; the shards appear whole or not at all, in place of those that were
    there. The same raw data and configuration give the same bytes.

    Args:
        seed: of the split, where the data has no val or test of its own.
        progress: show it on stderr, and the report at the end.

    Raises:
        ValueError: one line saying what is wrong with the raw data, and where.
    """
    root = obtain(config, progress=progress)
    shards = Path(config.shards)
    _refuse_foreign_folder(shards)
    # Before they are read: what changes meanwhile is a change.
    raw_files = fingerprint(root, without=shards)
    raw = read_raw(config, root)
    refuse_shared_images(raw)
    for split in raw.splits.values():
        refuse_absent_images(split)
    raw = _with_missing_splits(raw, config, seed=seed)
    threads = config.threads or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        checked = {
            name: _check_split(split, config, name, pool=pool, categories=raw.categories, progress=progress)
            for name, split in sorted(raw.splits.items(), key=lambda item: SPLITS.index(item[0]))
        }
        temporary = shards.with_name(f"{shards.name}.tmp")
        try:
            entries = {}
            for name, ready in checked.items():
                entries[name] = _write_split(
                    ready,
                    temporary / name,
                    config,
                    raw.categories,
                    pool=pool,
                    what=f"{config.name} {name}",
                    progress=progress,
                )
            description = write_description(
                temporary,
                name=config.name,
                format=config.format,
                categories=raw.categories,
                splits=entries,
                keypoints=raw.keypoints,
                semantic_classes=raw.semantic_classes,
            )
            report = Report(
                name=config.name,
                content_hash=description["content_hash"],
                splits={name: ready.report for name, ready in checked.items()},
            )
            (temporary / "report.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")
            (temporary / SETTINGS).write_text(f"{_settings(config, seed=seed)}\n{raw_files}\n")
            replace_folder(temporary, shards)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    if progress:
        report.print()
    return report


def is_prepared(config: DataConfig, *, seed: int) -> bool:
    """Whether `config.shards` holds what `prepare` would write with these settings and raw files.

    Files are compared by path, size and time of change. Where there are none (shards that were pulled) the settings
    decide. Taken as they are: shards that `write_split` made, and any whose absent root is said to lie within them,
    where no raw folder can be.
    """
    shards, root = Path(config.shards), Path(config.root)
    if not (shards / "dataset.json").is_file():
        return False
    written = shards / SETTINGS
    if not written.is_file() or (not root.exists() and shards.absolute() in root.absolute().parents):
        return True
    settings, _, raw_files = written.read_text().strip().partition("\n")
    return settings == _settings(config, seed=seed) and fingerprint(root, without=shards) in (None, raw_files)


def _settings(config: DataConfig, *, seed: int) -> str:
    """SHA-256 of the part of the configuration that decides what is in the shards."""
    values = config.model_dump(mode="json", exclude=_LOADING)
    if config.max_image_pixels == MAX_IMAGE_PIXELS:
        del values["max_image_pixels"]
    # What came in later and says nothing is left out: shards that were written before stay those of their settings.
    values = {key: value for key, value in values.items() if value or key not in ("angles", "ignore", "semantic")}
    for split in (values["splits"] or {}).values():
        if split["instances"] is None:
            del split["instances"]
    return hashlib.sha256(json.dumps([values, seed], sort_keys=True).encode()).hexdigest()


def _refuse_foreign_folder(shards: Path) -> None:
    """What is there is going to be replaced: make sure that it is ours."""
    if shards.is_file():
        raise ValueError(f"data.shards: {shards} is a file")
    if shards.exists():
        foreign = sorted({path.name for path in shards.iterdir()} - {"dataset.json", "report.json", SETTINGS, *SPLITS})
        if foreign:
            raise ValueError(
                f"data.shards: {shards} holds {listing(foreign)}, which no prepare wrote; name another folder"
            )


def _with_missing_splits(raw: RawDataset, config: DataConfig, *, seed: int) -> RawDataset:
    """Takes val and test from train where the data has none.

    Images are drawn by the hash of seed and file name, so a set that grows keeps most of them where they were.
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


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """A split ready to be written: its images in order, with what each one's bytes need."""

    split: RawSplit
    declared: list[tuple[int, int]]
    kept: NDArray[np.bool_]
    report: SplitReport


def _check_split(
    split: RawSplit,
    config: DataConfig,
    name: str,
    *,
    pool: ThreadPoolExecutor,
    categories: tuple[str, ...],
    progress: bool,
) -> _Checked:
    """Decodes every image once, then cleans the objects of those that can be read."""
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
    if cleaned.split.objects.num_rows == 0 and split.maps is None:
        hint = "" if name == "train" else f"; if it was drawn from train, raise data.{name}_fraction or set it to 0"
        raise ValueError(f"{split.source}: the {name} split has no objects{hint}")
    report = SplitReport.of(cleaned, categories=categories, skipped=skipped, converted=kept.count(False))
    return _Checked(
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


def _write_split(
    checked: _Checked,
    folder: Path,
    config: DataConfig,
    categories: tuple[str, ...],
    *,
    pool: ThreadPoolExecutor,
    what: str,
    progress: bool,
) -> dict[str, object]:
    """Writes one split's shards; returns its entry for `dataset.json`."""
    split = checked.split
    image_ids, files = split.images["image_id"].to_pylist(), split.images["file_name"].to_pylist()
    annotations = Annotations(split.objects, num_samples=len(files))
    starts = annotations.starts.tolist()
    stored = track(
        _stored(checked, files, pool, config.max_image_pixels),
        f"{what}: writing shards",
        total=len(files),
        shown=progress,
    )
    with SplitWriter(folder, categories=categories, samples_per_shard=config.samples_per_shard) as writer:
        for row, (image, maps) in enumerate(stored):
            writer.add(
                image,
                image_id=image_ids[row],
                file_name=files[row],
                annotations=annotations,
                rows=range(starts[row], starts[row + 1]),
                maps=maps,
            )
        return writer.finish(split.objects)


def _stored(
    checked: _Checked, files: list[str], pool: ThreadPoolExecutor, max_pixels: int
) -> Iterator[tuple[StoredImage, StoredMaps | None]]:
    """The images in order, read and converted by threads, a few at a time."""
    maps = checked.split.maps
    sizes = list(zip(*(checked.split.images[side].to_pylist() for side in ("height", "width")), strict=True))

    def load(row: int) -> tuple[StoredImage, StoredMaps | None]:
        data = (checked.split.folder / files[row]).read_bytes()
        own = None if maps is None else maps.read(row, sizes[row])
        if checked.kept[row]:
            return StoredImage.unchanged(data, *sizes[row]), own
        return store_image(data, declared=checked.declared[row], max_pixels=max_pixels), own

    for first in range(0, len(files), 64):
        yield from pool.map(load, range(first, min(first + 64, len(files))))
