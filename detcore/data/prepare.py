"""From a raw folder to shards: obtain, read, validate, split, write, report."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from detcore.config import DataConfig
from detcore.data.annotations import Annotations
from detcore.data.checked_split import CheckedSplit, check_split
from detcore.data.federated import Federated
from detcore.data.fingerprint import fingerprint
from detcore.data.formats import RawDataset, read_raw
from detcore.data.formats.raw import listing
from detcore.data.images import StoredImage, store_image
from detcore.data.label_maps import StoredMaps
from detcore.data.progress import track
from detcore.data.raw_checks import refuse_shared_images, without_absent_images
from detcore.data.report import Report
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
    raw, absent = without_absent_images(raw, skip=config.absent_images == "skip")
    raw = with_missing_splits(raw, config, seed=seed)
    settings = f"{_settings(config, seed=seed)}\n{raw_files}\n"
    return write_raw(raw, config, settings=settings, absent=absent, progress=progress)


def write_raw(
    raw: RawDataset,
    config: DataConfig,
    *,
    settings: str | None = None,
    absent: Mapping[str, list[str]] | None = None,
    without_objects: bool = False,
    progress: bool = True,
) -> Report:
    """Checks all images and objects of raw data, then writes them as the folder `config.shards`.

    Args:
        settings: what `is_prepared` is to compare; None writes nothing for it.
        absent: images by split that were left out because they are not there, for the report.
        without_objects: let a split have none at all, as a few images of one may.
        progress: as in `prepare`.

    Raises:
        ValueError: one line saying what is wrong with the raw data, and where.
    """
    shards = Path(config.shards)
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
    loading |= {"min_visible", "unmixed_last_steps"}
    # What came in later and says nothing is left out: shards that were written before stay those of their settings.
    later = {"angles", "ignore", "semantic", "absent_images"}
    unset = {key for key in later if getattr(config, key) == DataConfig.model_fields[key].default}
    values = config.model_dump(mode="json", exclude=loading | unset)
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
                federated=federated,
            )
        return writer.finish(split.objects)


def _stored(
    checked: CheckedSplit, files: list[str], pool: ThreadPoolExecutor
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
