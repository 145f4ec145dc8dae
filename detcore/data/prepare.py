"""From a raw folder to shards: obtain, read, validate, split, write, report."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detcore.config import DataConfig
from detcore.config.preparing import settings_hash
from detcore.config.stores import is_url
from detcore.data.annotations import Annotations
from detcore.data.checked_split import CheckedSplit, check_split
from detcore.data.federated import Federated
from detcore.data.fingerprint import fingerprint
from detcore.data.formats import RawDataset, read_raw
from detcore.data.formats.raw import listing
from detcore.data.images import StoredImage, store_image
from detcore.data.label_maps import StoredMaps
from detcore.data.prepared import SETTINGS, record_raw_files
from detcore.data.progress import track
from detcore.data.publishing import Publisher
from detcore.data.raw_checks import refuse_shared_images, without_absent_images
from detcore.data.report import Report
from detcore.data.shard_writing import SplitWriter, replace_folder, write_description
from detcore.data.shards import SPLITS
from detcore.data.sources import obtain
from detcore.data.splitting import with_missing_splits
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
    raw, absent = without_absent_images(raw, skip=config.absent_images == "skip")
    raw = with_missing_splits(raw, config, seed=seed)
    settings = settings_hash(config, seed=seed)
    report = write_raw(raw, config, shards, settings=settings, absent=absent, progress=progress)
    record_raw_files(shards, raw_files)
    return report


def write_raw(
    raw: RawDataset,
    config: DataConfig,
    shards: Path,
    *,
    settings: str | None = None,
    absent: Mapping[str, list[str]] | None = None,
    without_objects: bool = False,
    progress: bool = True,
) -> Report:
    """Checks all images and objects of raw data, then writes them as the folder `shards`.

    Args:
        settings: what `is_prepared` is to compare; None writes nothing for it.
        absent: images by split that were left out because they are not there, for the report.
        without_objects: let a split have none at all, as a few images of one may.
        progress: as in `prepare`.

    Raises:
        ValueError: one line saying what is wrong with the raw data, and where.
    """
    threads = config.threads or len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        checked = {
            name: check_split(
                raw.splits[name],
                config,
                name,
                pool=pool,
                categories=raw.categories,
                absent=(absent or {}).get(name, []),
                progress=progress,
            )
            for name in SPLITS
            if name in raw.splits
        }
        if not without_objects:
            _refuse_splits_without_objects(checked)
        temporary = shards.with_name(f"{shards.name}.tmp")
        try:
            report = _write_folder(temporary, checked, raw, config, pool=pool, progress=progress)
            if settings is not None:
                (temporary / SETTINGS).write_text(f"{settings}\n")
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


def _refuse_splits_without_objects(checked: Mapping[str, CheckedSplit]) -> None:
    for name, ready in checked.items():
        if ready.split.objects.num_rows == 0 and ready.split.maps is None:
            hint = "" if name == "train" else f"; if it was drawn from train, raise data.{name}_fraction or set it to 0"
            raise ValueError(f"{ready.split.source}: the {name} split has no objects{hint}")


def _write_folder(
    folder: Path,
    checked: Mapping[str, CheckedSplit],
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
        frequencies=raw.frequencies,
    )
    report = Report(
        name=config.name,
        content_hash=description["content_hash"],
        splits={name: ready.report for name, ready in checked.items()},
    )
    (folder / "report.json").write_text(json.dumps(report.to_dict(), indent=2) + "\n")
    return report


def _write_split(
    checked: CheckedSplit,
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
    federated = None if split.federated is None else Federated.of(split.federated)
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
                federated=federated,
            )
        return writer.finish(split.objects)


def _stored(
    checked: CheckedSplit, files: list[str], pool: ThreadPoolExecutor, max_pixels: int
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
