"""A data set of COCO train2017's size: memory of its annotations, opening, first batch, and padding by buckets.

    python tests/perf/data_scale.py --root COCO_MINI [--folder FOLDER] [--json FILE]

COCO_MINI is a folder of data=coco_mini. Its val images and objects, drawn with replacement, make up 118,287 images with
860,001 objects; the tar files are links to one. Times are medians of fresh processes, once with the columns' pages in
the system's cache and once without. Memory is that of 8 processes together, pages of mapped files counted once, less
what they had after their imports. Padding is over an epoch, empty rows included, of coco_mini's sizes at 640 to 800;
Detectron2 pads each GPU's images of a batch to the largest of them.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.context import SpawnContext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detcore.config import DataConfig, load
from detcore.data import ShardedSplit, build_loader, prepare
from detcore.data.augmentation.sizes import content_sizes
from detcore.data.columns import compact
from detcore.data.sampler import Sampler
from detcore.data.shard_writing import write_columns, write_description
from detcore.data.shards import INDEX_SCHEMA

IMAGES, OBJECTS, PER_SHARD = 118_287, 860_001, 1000
RANKS, BATCH = 8, 16
TRANSFORMS = (
    "data.train_transforms=[{type: resize_shortest_edge, sizes: [640, 672, 704, 736, 768, 800], max_size: 1333},"
    " {type: horizontal_flip}]"
)
COLUMNS = ("index.arrow", "annotations.arrow")
OPEN_BAR, FIRST_BATCH_BAR, MEMORY_BAR, PADDING_BAR = 2.0, 5.0, 300.0, 12.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the table. `ours` must be below the bar."""

    case: str
    unit: str
    ours: float
    theirs: float | None = None
    bar: float | None = None

    def to_dict(self) -> dict[str, Any]:
        ratio = None if self.theirs is None else self.ours / self.theirs
        met = None if self.bar is None else self.ours < self.bar
        return asdict(self) | {"ratio": ratio, "met": met}

    def __str__(self) -> str:
        theirs, bar = ("" if value is None else f"{value:.1f}" for value in (self.theirs, self.bar))
        missed = "  missed" if self.to_dict()["met"] is False else ""
        return f"{self.case:<62} {self.unit:<4} {self.ours:>8.2f} {theirs:>8} {bar:>6}{missed}"


def settings(root: Path, shards: Path, num_buckets: int = 10) -> DataConfig:
    places = [f"data.root={root}", f"data.shards={shards}", f"data.num_buckets={num_buckets}", TRANSFORMS]
    return load(["data=coco_mini", *places]).data


def build(root: Path, folder: Path) -> None:
    """Writes the split into `folder`, which appears when it is whole."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    prepare(settings(root, temporary), seed=0, progress=False)
    seed = ShardedSplit.open(temporary, "val")
    description = json.loads((temporary / "dataset.json").read_bytes())
    entry = description["splits"]["val"]
    random = np.random.default_rng(0)
    images = random.integers(len(seed), size=IMAGES)
    target = temporary / "train"
    shutil.rmtree(target)
    target.mkdir()
    write_columns(target / "index.arrow", _index(temporary / "val", images))
    write_columns(target / "annotations.arrow", compact(_objects(seed, images, random)))
    tar = temporary / "val" / entry["shards"][0]["name"]
    shards = []
    for number in range(-(-IMAGES // PER_SHARD)):
        name = f"shard-{number:05d}.tar"
        os.link(tar, target / name)
        shards.append({**entry["shards"][0], "name": name})
    names = {key: description[key] for key in ("name", "format", "categories")}
    entry = {**entry, "samples": IMAGES, "objects": OBJECTS, "shards": shards}
    write_description(temporary, **names, splits={"train": entry})
    temporary.rename(folder)


def _index(seed: Path, images: NDArray[np.int64]) -> pa.RecordBatch:
    rows = pa.ipc.open_file(pa.memory_map(str(seed / "index.arrow"))).get_batch(0).take(pa.array(images))
    numbers = np.arange(IMAGES)
    own = {
        "shard": pa.array((numbers // PER_SHARD).astype(np.int32)),
        "image_id": pa.array(numbers + 1),
        "file_name": pa.array([f"{number:012d}.jpg" for number in numbers], pa.large_string()),
    }
    return pa.RecordBatch.from_arrays([own.get(name, rows[name]) for name in INDEX_SCHEMA.names], schema=INDEX_SCHEMA)


def _objects(seed: ShardedSplit, images: NDArray[np.int64], random: np.random.Generator) -> pa.RecordBatch:
    """The objects of the drawn images; of all that they have, `OBJECTS` at random."""
    starts = seed.annotations.starts
    counts = np.diff(starts)[images]
    samples = np.repeat(np.arange(IMAGES), counts)
    within = np.arange(len(samples)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.sort(random.permutation(len(samples))[:OBJECTS])
    rows = seed.annotations.batch.take(pa.array((starts[images[samples]] + within)[kept]))
    own = {"sample": pa.array(samples[kept].astype(np.int32)), "annotation_id": pa.array(np.arange(OBJECTS) + 1)}
    return pa.RecordBatch.from_arrays([own.get(name, rows[name]) for name in rows.schema.names], schema=rows.schema)


def memory_mb(folder: Path) -> float:
    """What this process has in memory itself, and its share of the pages of the data set's files, in MB.

    Other files are left out: a library's share changes with whatever else runs on the machine.
    """
    kilobytes, counted = 0, "Anonymous:"
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, *values = line.split()
        if not key.endswith(":"):  # a mapping begins: its addresses first, a file's path last
            counted = "Pss:" if str(folder) in line else "Anonymous:"
        elif key == counted:
            kilobytes += int(values[0])
    return kilobytes * 1024 / 1e6


def rank_memory(folder: Path, config: DataConfig, rank: int, barrier: Any, results: Any) -> None:
    """Runs in a process of its own: its memory when opened, when its share of all objects was read, and in training."""
    found = []

    def note() -> None:
        barrier.wait()
        found.append(memory_mb(folder))
        barrier.wait()

    note()
    split = ShardedSplit.open(folder, "train")
    note()
    for sample in np.random.default_rng(0).permutation(len(split))[rank::RANKS].tolist():
        split.objects(sample)
    note()
    loader = _loader(split, config, rank=rank, world_size=RANKS)
    next(loader)
    note()
    loader.close()
    results.put(found)


def _loader(split: ShardedSplit, config: DataConfig, *, rank: int = 0, world_size: int = 1) -> Any:
    rest: dict[str, Any] = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3, "device": "cpu"}
    return build_loader(split, config, train=True, batch_size=BATCH, seed=0, rank=rank, world_size=world_size, **rest)


def memory_rows(context: SpawnContext, folder: Path, config: DataConfig) -> list[Row]:
    barrier, results = context.Barrier(RANKS), context.Queue()
    ranks = [context.Process(target=rank_memory, args=(folder, config, r, barrier, results)) for r in range(RANKS)]
    for process in ranks:
        process.start()
    imported, *stages = np.array([results.get(timeout=600) for _ in ranks]).sum(axis=0).tolist()
    for process in ranks:
        process.join()
    names = (
        ("annotations opened", MEMORY_BAR),
        ("annotations, every object read once", MEMORY_BAR),
        ("the same, an epoch planned and a batch loaded", None),
    )
    return [
        Row(case=f"{RANKS} ranks together: {name}", unit="MB", ours=stage - imported, bar=bar)
        for (name, bar), stage in zip(names, stages, strict=True)
    ]


def first_batch(folder: Path, config: DataConfig, results: Any) -> None:
    """Runs in a process of its own: seconds until the split is open, until an epoch is shuffled, until a batch came."""
    started = time.perf_counter()
    split = ShardedSplit.open(folder, "train")
    opened = time.perf_counter()
    loader = _loader(split, config)
    assert loader.steps_per_epoch * BATCH >= IMAGES
    shuffled = time.perf_counter()
    next(loader)
    results.put([opened - started, shuffled - started, time.perf_counter() - started])
    loader.close()


def time_rows(context: SpawnContext, folder: Path, config: DataConfig, repeats: int = 3) -> list[Row]:
    rows = []
    for cache in ("warm", "cold"):
        found = []
        for _ in range(repeats):
            if cache == "cold":
                for name in COLUMNS:
                    _forget(folder / "train" / name)
            results = context.Queue()
            process = context.Process(target=first_batch, args=(folder, config, results))
            process.start()
            found.append(results.get(timeout=600))
            process.join()
        medians = [statistics.median(times) for times in zip(*found, strict=True)]
        names = ("open", "open, shuffle an epoch", f"open, shuffle, first batch of {BATCH}")
        for name, bar, seconds in zip(names, (OPEN_BAR, None, FIRST_BATCH_BAR), medians, strict=True):
            rows.append(Row(case=f"{name} ({cache} cache)", unit="s", ours=seconds, bar=bar))
    return rows


def _forget(path: Path) -> None:
    """Drops a file's pages from the system's cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def padding_rows(root: Path, config: DataConfig) -> list[Row]:
    """Padded over real pixels - 1 of an epoch of COCO's size, by number of buckets; theirs is Detectron2's rule."""
    parts = [
        json.loads((root / f"annotations/instances_{part}.json").read_bytes())["images"] for part in ("train", "val")
    ]
    known = np.array([(image["height"], image["width"]) for part in parts for image in part])
    raw = known[np.random.default_rng(0).integers(len(known), size=IMAGES)]
    sizes = content_sizes(raw, config.train_transforms, np.random.default_rng(1).integers(6, size=IMAGES))
    rows = []
    for number in (1, 2, 4, 6, 8, 10):
        sampler = Sampler(
            heights=raw[:, 0].astype(np.int32),
            widths=raw[:, 1].astype(np.int32),
            transforms=config.train_transforms,
            batch_size=BATCH,
            num_buckets=number,
            size_divisor=config.size_divisor,
            seed=0,
            shuffle=True,
        )
        plan = sampler.epoch(0)
        name = f"padding with {len(sampler.buckets)} buckets ({plan.empty_rows} empty rows)"
        rows.append(Row(case=name, unit="%", ours=100 * plan.padding))
    for images in (2, 16, None):
        name = f"the same; D2 with {images or 'all'} images a batch of its two groups"
        theirs = two_groups(sizes, rows=images)
        rows.append(Row(case=name, unit="%", ours=rows[-1].ours, theirs=theirs, bar=PADDING_BAR))
    return rows


def two_groups(sizes: NDArray[np.int64], *, rows: int | None, divisor: int = 32) -> float:
    """Percent of padding where landscape and portrait images form batches apart, each as large as its largest image.

    With None images a batch, each group has one shape: that of its largest image.
    """
    order = np.random.default_rng(2).permutation(len(sizes))
    padded, real = 0, 0
    for group in (order[sizes[order, 1] > sizes[order, 0]], order[sizes[order, 1] <= sizes[order, 0]]):
        number = rows or len(group)
        batches = sizes[group[: len(group) // number * number]].reshape(-1, number, 2)
        padded += int((-(-batches.max(axis=1) // divisor) * divisor).prod(axis=1).sum()) * number
        real += int(batches.prod(axis=2).sum())
    return 100 * (padded / real - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="coco_mini's folder")
    parser.add_argument("--folder", type=Path, help="where the data set is kept; otherwise it is made and removed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to FILE")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "coco_size"
        if not folder.exists():
            build(arguments.root, folder)
        config = settings(arguments.root, folder)
        sizes = ", ".join(f"{name} {(folder / 'train' / name).stat().st_size / 1e6:.0f} MB" for name in COLUMNS)
        print(f"{IMAGES:,} images, {OBJECTS:,} objects: {sizes}")
        print(f"{'case':<62} {'unit':<4} {'ours':>8} {'D2':>8} {'bar':>6}")
        context = multiprocessing.get_context("spawn")
        rows = []
        for part in (
            lambda: time_rows(context, folder, config),
            lambda: memory_rows(context, folder, config),
            lambda: padding_rows(arguments.root, config),
        ):
            for row in part():
                print(row, flush=True)
                rows.append(row.to_dict())
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
