"""Writing shards; `detcore.data.shards` says what they are. For samples of your own: `write_split`."""

import hashlib
import io
import json
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa

from detcore.data.annotations import Annotations
from detcore.data.columns import compact
from detcore.data.description import FORMAT_VERSION
from detcore.data.federated import NEGATIVE, NOT_EXHAUSTIVE, Federated
from detcore.data.images import StoredImage
from detcore.data.keypoints import KeypointLayout
from detcore.data.label_maps import SEGMENT_SCHEMA, StoredMaps
from detcore.data.shards import INDEX_SCHEMA, SPLITS


class SplitWriter:
    """Writes one split into a folder of its own: `add` each sample in order, then `finish`. A context manager."""

    def __init__(self, folder: Path, *, categories: Sequence[str], samples_per_shard: int) -> None:
        self._folder = folder
        self._categories = categories
        self._samples_per_shard = samples_per_shard
        self._index: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names}
        self._segments: dict[str, list[Any]] = {name: [] for name in SEGMENT_SCHEMA.names}
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
        self,
        image: StoredImage,
        *,
        image_id: int,
        file_name: str,
        annotations: Annotations,
        rows: Iterable[int],
        maps: StoredMaps | None = None,
        federated: Federated | None = None,
    ) -> None:
        """Appends one image with its objects, the given rows of `annotations`, its maps and its row of `federated`."""
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
        if federated is not None:
            description |= federated.record(index)
        if maps is not None and maps.panoptic is not None:
            description["segments"] = maps.segments
        row: dict[str, Any] = {
            "shard": shard,
            "height": image.height,
            "width": image.width,
            "image_id": image_id,
            "file_name": file_name,
            NEGATIVE: None if federated is None else federated.negative(index).tolist(),
            NOT_EXHAUSTIVE: None if federated is None else federated.not_exhaustive(index).tolist(),
            **self._append_indexed(f"{index:09d}.{image.extension}", image.data, kind=""),
        }
        self._append(f"{index:09d}.json", json.dumps(description).encode())
        if maps is not None:
            row |= self._append_indexed(f"{index:09d}.semantic.png", maps.semantic, kind="semantic_")
            if maps.panoptic is not None:
                row |= self._append_indexed(f"{index:09d}.panoptic.png", maps.panoptic, kind="panoptic_")
            for segment in maps.segments:
                values = (index, segment["id"], segment["category"], segment["is_thing"], bool(segment["iscrowd"]))
                for column, value in zip(self._segments.values(), values, strict=True):
                    column.append(value)
        for name, column in self._index.items():
            column.append(row.get(name, 0))

    def finish(self, annotations: pa.RecordBatch) -> dict[str, Any]:
        """Writes index and annotations; returns the split's entry for `dataset.json`."""
        self._close_shard()
        index = pa.RecordBatch.from_pydict(self._index, schema=INDEX_SCHEMA)
        write_columns(self._folder / "index.arrow", index)
        write_columns(self._folder / "annotations.arrow", compact(annotations))
        has_panoptic = bool(index.num_rows) and all(self._index["panoptic_size"])
        if has_panoptic:
            segments = pa.RecordBatch.from_pydict(self._segments, schema=SEGMENT_SCHEMA)
            write_columns(self._folder / "segments.arrow", segments)
        return {
            "samples": index.num_rows,
            "objects": annotations.num_rows,
            "has_masks": _has_masks(annotations),
            "has_rotated": annotations.num_rows > 0 and annotations["bbox_rotated"].null_count == 0,
            "has_semantic": bool(index.num_rows) and all(self._index["semantic_size"]),
            "has_panoptic": has_panoptic,
            "shards": [_file_entry(path) for path in sorted(self._folder.glob("shard-*.tar"))],
            "tables": [_file_entry(path) for path in sorted(self._folder.glob("*.arrow"))],
        }

    def _append_indexed(self, name: str, data: bytes, *, kind: str) -> dict[str, int]:
        """Adds a file; returns its columns of the index."""
        return {f"{kind}offset": self._append(name, data), f"{kind}size": len(data), f"{kind}crc32": zlib.crc32(data)}

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
    folder: Path,
    *,
    name: str,
    format: str,
    categories: Sequence[str],
    splits: dict[str, Any],
    keypoints: KeypointLayout | None = None,
    semantic_classes: Sequence[str] = (),
    frequencies: Sequence[str] = (),
) -> dict[str, Any]:
    """Writes and returns `dataset.json`; the content hash covers all names, splits and every byte of every shard."""
    splits = {split: splits[split] for split in SPLITS if split in splits}
    kinds: dict[str, Any] = {}
    if keypoints is not None:
        kinds["keypoints"] = keypoints.to_dict()
    if semantic_classes:
        kinds["semantic_classes"] = list(semantic_classes)
    if frequencies:
        kinds["frequencies"] = list(frequencies)
    hashes = {split: [shard["sha256"] for shard in splits[split]["shards"]] for split in splits}
    content = [list(categories), hashes, *([kinds] if kinds else [])]
    description = {
        "format_version": FORMAT_VERSION,
        "name": name,
        "format": format,
        "categories": list(categories),
        **kinds,
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


def _file_entry(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest}


def write_columns(path: Path, batch: pa.RecordBatch) -> None:
    """Writes a batch as an Arrow file that can be mapped into memory."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
