"""Writing shards; `detcore.data.shards` says what they are. For samples of your own: `write_split`."""

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from detcore.data.annotations import AnnotationBuilder, Annotations
from detcore.data.images import StoredImage, store_image
from detcore.data.outlines import ring_area
from detcore.data.sample import Sample
from detcore.data.shards import FORMAT_VERSION, INDEX_SCHEMA, SPLITS, read_description


def write_split(
    samples: Iterable[Sample],
    folder: Path,
    *,
    split: str,
    categories: Sequence[str],
    name: str = "own",
    samples_per_shard: int = 1000,
) -> None:
    """Writes samples of your own as one split of a folder of shards; call it once a split.

    Args:
        samples: read once, one at a time.
        folder: the folder of shards; other splits in it stay, one of the same name is replaced when all is written.
        split: 'train', 'val' or 'test'.
        categories: names by 0-based class; the same for all splits of a folder.
        name: the data set's name.
        samples_per_shard: at most so many images a tar.

    Raises:
        ValueError: an unreadable image, a label outside `categories`, a box without area inside its image, two images
            with one id, no sample at all, or categories other than those of the splits already there.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    folder = Path(folder)
    entries = {}
    if (folder / "dataset.json").is_file():
        there = read_description(folder)
        if there["categories"] != list(categories):
            raise ValueError(f"{folder}: has the categories {there['categories']}, got {list(categories)}")
        entries = there["splits"]
    image_ids: set[int] = set()
    batches: list[pa.RecordBatch] = []
    num_objects = 0
    with SplitWriter(folder / f"{split}.tmp", categories=categories, samples_per_shard=samples_per_shard) as writer:
        for index, sample in enumerate(samples):
            image_id = index + 1 if sample.image_id is None else sample.image_id
            file_name = sample.file_name or str(image_id)
            try:
                if image_id in image_ids:
                    raise ValueError(f"image id {image_id} is already taken")
                image = store_image(sample.image)
                batch = _object_columns(sample, index=index, first_id=num_objects + 1, image=image, names=categories)
            except ValueError as error:
                raise ValueError(f"{split} sample {index} ({file_name}): {error}") from error
            image_ids.add(image_id)
            batches.append(batch)
            num_objects += batch.num_rows
            rows = Annotations(batch, num_samples=0)
            writer.add(image, image_id=image_id, file_name=file_name, annotations=rows, rows=range(len(rows)))
        if not batches:
            raise ValueError(f"{split}: no samples")
        entry = writer.finish(pa.concat_batches(batches))
    replace_folder(folder / f"{split}.tmp", folder / split)
    write_description(folder, name=name, format="own", categories=categories, splits={**entries, split: entry})


def _object_columns(
    sample: Sample, *, index: int, first_id: int, image: StoredImage, names: Sequence[str]
) -> pa.RecordBatch:
    """A sample's objects as columns, checked against its image."""
    builder = AnnotationBuilder()
    for row, (box, label) in enumerate(zip(sample.boxes_xyxy.tolist(), sample.labels.tolist(), strict=True)):
        x0, y0, x1, y1 = box
        if not 0 <= label < len(names):
            raise ValueError(f"label {label} of object {row} is not in 0..{len(names) - 1}")
        if min(x1, image.width) <= max(x0, 0) or min(y1, image.height) <= max(y0, 0):
            raise ValueError(f"box {box} of object {row} has no area inside the {image.width} x {image.height} image")
        rings = [] if sample.polygons is None else sample.polygons[row]
        builder.add(
            sample=index,
            annotation_id=first_id + row,
            label=label,
            bbox_xywh=(x0, y0, x1 - x0, y1 - y0),
            area=sum(ring_area(ring) for ring in rings) if rings else (x1 - x0) * (y1 - y0),
            crowd=sample.crowd is not None and bool(sample.crowd[row]),
            segmentation=[ring.reshape(-1).tolist() for ring in rings],
        )
    return builder.batch()


class SplitWriter:
    """Writes one split into a folder of its own: `add` each sample in order, then `finish`. A context manager."""

    def __init__(self, folder: Path, *, categories: Sequence[str], samples_per_shard: int) -> None:
        self._folder = folder
        self._categories = categories
        self._samples_per_shard = samples_per_shard
        self._index: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names}
        self._tar: tarfile.TarFile | None = None
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close_shard()
        if kind is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(
        self, image: StoredImage, *, image_id: int, file_name: str, annotations: Annotations, rows: Iterable[int]
    ) -> None:
        """Appends one image with its objects, the given rows of `annotations`."""
        index = len(self._index["shard"])
        shard, place = divmod(index, self._samples_per_shard)
        if place == 0:
            self._close_shard()
            self._tar = tarfile.TarFile(self._folder / f"shard-{shard:05d}.tar", "x", format=tarfile.USTAR_FORMAT)
        records = [annotations.record(row, image_id=image_id) for row in rows]
        description = {
            "image_id": image_id,
            "file_name": file_name,
            "height": image.height,
            "width": image.width,
            "annotations": [{**record, "category": self._categories[record["category_id"] - 1]} for record in records],
        }
        offset = self._append(f"{index:09d}.{image.extension}", image.data)
        self._append(f"{index:09d}.json", json.dumps(description).encode())
        row = (shard, offset, len(image.data), image.height, image.width, image_id, file_name)
        for column, value in zip(self._index.values(), row, strict=True):
            column.append(value)

    def finish(self, annotations: pa.RecordBatch) -> dict[str, Any]:
        """Writes index and annotations; returns the split's entry for `dataset.json`."""
        self._close_shard()
        index = pa.RecordBatch.from_pydict(self._index, schema=INDEX_SCHEMA)
        _write_arrow(self._folder / "index.arrow", index)
        _write_arrow(self._folder / "annotations.arrow", annotations)
        shards = []
        for path in sorted(self._folder.glob("shard-*.tar")):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            shards.append({"name": path.name, "bytes": path.stat().st_size, "sha256": digest})
        return {
            "samples": index.num_rows,
            "objects": annotations.num_rows,
            "has_masks": _has_masks(annotations),
            "shards": shards,
        }

    def _append(self, name: str, data: bytes) -> int:
        """Adds a file without owner or time; returns where its bytes begin."""
        assert self._tar is not None
        info = tarfile.TarInfo(name)
        info.size = len(data)
        offset = self._tar.offset + tarfile.BLOCKSIZE
        self._tar.addfile(info, io.BytesIO(data))
        return offset

    def _close_shard(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None


def write_description(
    folder: Path, *, name: str, format: str, categories: Sequence[str], splits: dict[str, Any]
) -> dict[str, Any]:
    """Writes and returns `dataset.json`; the content hash covers categories, splits and every byte of every shard."""
    splits = {split: splits[split] for split in SPLITS if split in splits}
    content = [list(categories), {split: [shard["sha256"] for shard in splits[split]["shards"]] for split in splits}]
    description = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "format": format,
        "categories": list(categories),
        "has_masks": all(entry["has_masks"] for entry in splits.values()),
        "content_hash": hashlib.sha256(json.dumps(content).encode()).hexdigest(),
        "splits": splits,
    }
    temporary = folder / "dataset.json.tmp"
    temporary.write_text(json.dumps(description, indent=2) + "\n")
    temporary.replace(folder / "dataset.json")
    return description


def replace_folder(temporary: Path, final: Path) -> None:
    """Puts a finished folder in the place of another, which stays whole until then."""
    old = final.with_name(f"{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    temporary.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _has_masks(annotations: pa.RecordBatch) -> bool:
    outlined = np.diff(annotations["polygons"].offsets.to_numpy()) > 0
    crowd = annotations["crowd"].to_numpy(zero_copy_only=False)
    return bool((outlined | crowd).all() and outlined.any())


def _write_arrow(path: Path, batch: pa.RecordBatch) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
