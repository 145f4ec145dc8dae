"""From a raw folder to shards: obtain, read, validate, split, write, report."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detcore.config import DataConfig
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
from detcore.data.splitting import with_missing_splits

SETTINGS = "settings.sha256"
"""The file that says of which part of the configuration (its first line) and raw files (its second) the shards are."""


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
    raw = with_missing_splits(raw, config, seed=seed)
    return write_raw(raw, config, settings=f"{_settings(config, seed=seed)}\n{raw_files}\n", progress=progress)


def write_raw(
    raw: RawDataset,
    config: DataConfig,
    *,
    settings: str | None = None,
    without_objects: bool = False,
    progress: bool = True,
) -> Report:
    """Checks all images and objects of raw data, then writes them as the folder `config.shards`.

    Args:
        settings: what `is_prepared` is to compare; None writes nothing for it.
        without_objects: let a split have none at all, as a few images of one may.
        progress: as in `prepare`.

    Raises:
        ValueError: one line saying what is wrong with the raw data, and where.
    """
    shards = Path(config.shards)
    threads = config.threads or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        checked = {
            name: _check_split(split, config, name, pool=pool, categories=raw.categories, progress=progress)
            for name, split in sorted(raw.splits.items(), key=lambda item: SPLITS.index(item[0]))
        }
        if not without_objects:
            _refuse_splits_without_objects(checked)
        temporary = shards.with_name(f"{shards.name}.tmp")
        try:
            report = _write_folder(temporary, checked, raw, config, pool=pool, progress=progress)
            if settings is not None:
                (temporary / SETTINGS).write_text(settings)
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
    loading = {"shards", "sampling", "train_transforms", "test_transforms", "num_buckets", "size_divisor", "threads"}
    values = config.model_dump(mode="json", exclude=loading)
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
    checks = pool.map(partial(_check_image, maps=split.maps), paths, declared, range(len(files)))
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
    if len(skipped) > config.max_corrupt_fraction * len(files):
        raise ValueError(
            f"{split.source}: {len(skipped)} of {len(files)} {name} images cannot be read, more than"
            f" data.max_corrupt_fraction = {config.max_corrupt_fraction:g}: {listing(list(skipped))}"
        )
    refuse_other_sizes(split, readable, declared, sizes)
    split = split.take(np.array(readable, np.int64))
    columns = [*split.images.columns[:2], *(pa.array(side, pa.int32()) for side in zip(*sizes, strict=True))]
    split = replace(split, images=pa.RecordBatch.from_arrays(columns, schema=IMAGE_SCHEMA))
    cleaned = clean(split, min_box_size=config.min_box_size)
    report = SplitReport.of(cleaned, categories=categories, skipped=skipped, converted=kept.count(False))
    return _Checked(
        split=cleaned.split, declared=[declared[row] for row in readable], kept=np.array(kept), report=report
    )


def _refuse_splits_without_objects(checked: Mapping[str, _Checked]) -> None:
    for name, ready in checked.items():
        if ready.split.objects.num_rows == 0 and ready.split.maps is None:
            hint = "" if name == "train" else f"; if it was drawn from train, raise data.{name}_fraction or set it to 0"
            raise ValueError(f"{ready.split.source}: the {name} split has no objects{hint}")


def _check_image(
    path: Path, declared: tuple[int, int], row: int, *, maps: LabelMaps | None
) -> tuple[int, int, bool] | str:
    """Height, width and whether the file's bytes may stay; or why it or its map cannot be read."""
    try:
        image, kept = read_image(path.read_bytes(), declared=declared)
        if maps is not None:
            maps.read(row, (image.height, image.width))
    except ValueError as error:
        return str(error)
    return image.height, image.width, kept


def _write_folder(
    folder: Path,
    checked: Mapping[str, _Checked],
    raw: RawDataset,
    config: DataConfig,
    *,
    pool: ThreadPoolExecutor,
    progress: bool,
) -> Report:
    """Writes all splits, what describes them, and the report."""
    entries = {}
    for name, ready in checked.items():
        what = f"{config.name} {name}"
        entries[name] = _write_split(
            ready, folder / name, config, raw.categories, pool=pool, what=what, progress=progress
        )
    description = write_description(
        folder,
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
    (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    return report


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
    stored = track(_stored(checked, files, pool), f"{what}: writing shards", total=len(files), shown=progress)
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
    checked: _Checked, files: list[str], pool: ThreadPoolExecutor
) -> Iterator[tuple[StoredImage, StoredMaps | None]]:
    """The images in order, read and converted by threads, a few at a time."""
    maps = checked.split.maps
    sizes = list(zip(*(checked.split.images[side].to_pylist() for side in ("height", "width")), strict=True))

    def load(row: int) -> tuple[StoredImage, StoredMaps | None]:
        data = (checked.split.folder / files[row]).read_bytes()
        own = None if maps is None else maps.read(row, sizes[row])
        if checked.kept[row]:
            return StoredImage.unchanged(data, *sizes[row]), own
        return store_image(data, declared=checked.declared[row]), own

    for first in range(0, len(files), 64):
        yield from pool.map(load, range(first, min(first + 64, len(files))))
