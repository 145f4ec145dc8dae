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
from detcore.config.stores import is_url
from detcore.data.annotations import Annotations
from detcore.data.cleaning import clean
from detcore.data.fingerprint import fingerprint
from detcore.data.formats import RawDataset, RawSplit, read_raw
from detcore.data.formats.raw import IMAGE_SCHEMA, listing
from detcore.data.images import StoredImage, read_image, store_image
from detcore.data.label_maps import LabelMaps, StoredMaps
from detcore.data.prepared import SETTINGS, settings_hash
from detcore.data.progress import track
from detcore.data.publishing import Publisher
from detcore.data.raw_checks import refuse_absent_images, refuse_other_sizes, refuse_shared_images
from detcore.data.report import Report, SplitReport
from detcore.data.shard_writing import SplitWriter, replace_folder, write_description
from detcore.data.shards import SPLITS
from detcore.data.sources import obtain
from detcore.data.stores import staging_folder


def prepare(config: DataConfig, *, seed: int, progress: bool = True) -> Report:
    """Writes `config.shards` from the raw data, fetching or making that first where it is not there.

    All is checked before anything is written; the shards appear whole or not at all, in place of those that were
    there. The same raw data and configuration give the same bytes. Those for a URL are first written below
    DETCORE_CACHE, then put there several at once.

    Args:
        seed: of the split, where the data has no val or test of its own.
        progress: show it on stderr, and the report at the end.

    Raises:
        ValueError: one line saying what is wrong with the raw data, and where, or with the store.
    """
    if is_url(config.shards):
        publisher = Publisher(config.shards, config.store)
        with staging_folder() as staging:
            report = _prepare(config, staging / "shards", seed=seed, progress=progress)
            publisher.publish(staging / "shards", progress=progress)
    else:
        report = _prepare(config, Path(config.shards), seed=seed, progress=progress)
    if progress:
        report.print()
    return report


def _prepare(config: DataConfig, shards: Path, *, seed: int, progress: bool) -> Report:
    root = obtain(config, progress=progress)
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
            (temporary / SETTINGS).write_text(f"{settings_hash(config, seed=seed)}\n{raw_files}\n")
            replace_folder(temporary, shards)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return report


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
