"""Samples of your own, written as shards."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from detcore.config.stores import Store, is_url
from detcore.data.annotation_building import AnnotationBuilder
from detcore.data.annotations import PIXEL_CENTRE, Annotations
from detcore.data.description import find_description
from detcore.data.images import StoredImage, store_image
from detcore.data.keypoints import KeypointLayout
from detcore.data.label_maps import UNLABELLED, StoredMaps, png_of
from detcore.data.outlines import ring_area
from detcore.data.publishing import Publisher
from detcore.data.sample import Sample
from detcore.data.shard_writing import SplitWriter, replace_folder, write_description
from detcore.data.shards import SPLITS
from detcore.data.stores import staging_folder


def write_split(
    samples: Iterable[Sample],
    folder: str | Path,
    *,
    split: str,
    categories: Sequence[str],
    name: str = "own",
    samples_per_shard: int = 1000,
    keypoints: KeypointLayout | None = None,
    semantic_classes: Sequence[str] = (),
) -> None:
    """Writes samples of your own as one split of a folder of shards; call it once a split.

    Args:
        samples: read once, one at a time.
        folder: the folder of shards, or s3://bucket/folder or gs://bucket/folder; other splits in it stay, one of the
            same name is replaced when all is written.
        split: 'train', 'val' or 'test'.
        categories: names by 0-based class; the same for all splits of a folder.
        name: the data set's name.
        samples_per_shard: at most so many images a tar.
        keypoints: what the samples' keypoints are: `KeypointLayout.of(names, skeleton)`.
        semantic_classes: names by class of the samples' semantic maps.

    Raises:
        ValueError: an unreadable image, a label outside `categories`, a box without area inside its image, two images
            with one id, no sample at all, keypoints or maps that only some samples have or that were not named, or
            categories other than those of the splits already there; or a store that refuses or does not answer.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    kind = _Kind(name=name, categories=categories, keypoints=keypoints, semantic_classes=semantic_classes)
    entries = _other_splits(folder, kind)
    if is_url(folder):
        publisher = Publisher(str(folder), Store())
        with staging_folder() as staging:
            _write(samples, staging, split=split, kind=kind, entries=entries, samples_per_shard=samples_per_shard)
            publisher.publish(staging, progress=False)
    else:
        _write(samples, Path(folder), split=split, kind=kind, entries=entries, samples_per_shard=samples_per_shard)


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """What all samples of a folder have in common."""

    name: str
    categories: Sequence[str]
    keypoints: KeypointLayout | None
    semantic_classes: Sequence[str]


def _write(
    samples: Iterable[Sample],
    folder: Path,
    *,
    split: str,
    kind: _Kind,
    entries: dict[str, Any],
    samples_per_shard: int,
) -> None:
    """Writes a split beside the others, whose entries those are."""
    temporary = folder / f"{split}.tmp"
    with SplitWriter(temporary, categories=kind.categories, samples_per_shard=samples_per_shard) as writer:
        entry = writer.finish(_add(samples, writer, split=split, kind=kind))
    replace_folder(temporary, folder / split)
    write_description(
        folder,
        name=kind.name,
        format="own",
        categories=kind.categories,
        splits={**entries, split: entry},
        keypoints=kind.keypoints,
        semantic_classes=kind.semantic_classes,
    )


def _add(samples: Iterable[Sample], writer: SplitWriter, *, split: str, kind: _Kind) -> pa.RecordBatch:
    """Checks the samples and appends them one by one; returns the objects of all."""
    image_ids: set[int] = set()
    batches: list[pa.RecordBatch] = []
    num_objects = 0
    for index, sample in enumerate(samples):
        image_id = index + 1 if sample.image_id is None else sample.image_id
        file_name = sample.file_name or str(image_id)
        try:
            if image_id in image_ids:
                raise ValueError(f"image id {image_id} is already taken")
            image = store_image(sample.image)
            _check_kinds(sample, image, kind.keypoints, len(kind.semantic_classes))
            batch = _object_columns(sample, index=index, first_id=num_objects + 1, image=image, names=kind.categories)
        except ValueError as error:
            raise ValueError(f"{split} sample {index} ({file_name}): {error}") from error
        image_ids.add(image_id)
        batches.append(batch)
        num_objects += batch.num_rows
        rows = Annotations(batch, num_samples=0)
        maps = None if sample.semantic is None else StoredMaps(png_of(sample.semantic), None, [])
        writer.add(image, image_id=image_id, file_name=file_name, annotations=rows, rows=range(len(rows)), maps=maps)
    if not batches:
        raise ValueError(f"{split}: no samples")
    return pa.concat_batches(batches)


def _other_splits(folder: str | Path, kind: _Kind) -> dict[str, Any]:
    """The entries of the splits already there, if they are of the same kind."""
    there = find_description(folder)
    if there is None:
        return {}
    for what, given, nothing in (
        ("categories", list(kind.categories), []),
        ("keypoints", None if kind.keypoints is None else kind.keypoints.to_dict(), None),
        ("semantic_classes", list(kind.semantic_classes), []),
        ("frequencies", [], []),
    ):
        if there.get(what, nothing) != given:
            raise ValueError(f"{folder}: has the {what} {there.get(what, nothing)}, got {given}")
    entries: dict[str, Any] = there["splits"]
    return entries


def _check_kinds(sample: Sample, image: StoredImage, layout: KeypointLayout | None, num_semantic: int) -> None:
    """That a sample has what all of its split have."""
    if len(sample.labels) and (sample.keypoints is None) != (layout is None):
        raise ValueError(f"{'no keypoints' if layout else 'keypoints'}, but write_split's keypoints is {layout}")
    if layout is not None and sample.keypoints is not None and sample.keypoints.shape[1] != len(layout):
        raise ValueError(f"{sample.keypoints.shape[1]} keypoints an object, but write_split names {len(layout)}")
    if (sample.semantic is None) != (num_semantic == 0):
        raise ValueError(f"{'no' if num_semantic else 'a'} semantic map, but {num_semantic} semantic_classes")
    if sample.semantic is not None:
        if sample.semantic.shape != (image.height, image.width):
            raise ValueError(f"semantic map of {sample.semantic.shape} on an image of {(image.height, image.width)}")
        wrong = (sample.semantic >= num_semantic) & (sample.semantic != UNLABELLED)
        if wrong.any():
            raise ValueError(f"semantic class {sample.semantic[wrong][0]} is not in 0..{num_semantic - 1} nor 255")


def _object_columns(
    sample: Sample, *, index: int, first_id: int, image: StoredImage, names: Sequence[str]
) -> pa.RecordBatch:
    """A sample's objects as columns, checked against its image."""
    builder = AnnotationBuilder()
    keypoints, rotated = sample.keypoints, sample.boxes_xywha
    if keypoints is not None:
        keypoints = keypoints - np.where(keypoints[..., 2:] > 0, [PIXEL_CENTRE, PIXEL_CENTRE, 0.0], 0.0)
    for row, (box, label) in enumerate(zip(sample.boxes_xyxy.tolist(), sample.labels.tolist(), strict=True)):
        x0, y0, x1, y1 = box
        if not 0 <= label < len(names):
            raise ValueError(f"label {label} of object {row} is not in 0..{len(names) - 1}")
        if rotated is not None:
            x, y, w, h = rotated[row, :4].tolist()
            if not (0 <= x < image.width and 0 <= y < image.height and w > 0 and h > 0):
                raise ValueError(
                    f"rotated box {rotated[row].tolist()} of object {row} has no area, or its centre is outside the"
                    f" {image.width} x {image.height} image"
                )
        elif min(x1, image.width) <= max(x0, 0) or min(y1, image.height) <= max(y0, 0):
            raise ValueError(f"box {box} of object {row} has no area inside the {image.width} x {image.height} image")
        rings = [] if sample.polygons is None else sample.polygons[row]
        builder.add(
            sample=index,
            annotation_id=first_id + row,
            label=label,
            bbox_xywh=(x0, y0, x1 - x0, y1 - y0),
            area=sum(ring_area(ring) for ring in rings) if rings else _box_area(sample, row),
            crowd=sample.crowd is not None and bool(sample.crowd[row]),
            segmentation=[ring.reshape(-1).tolist() for ring in rings],
            keypoints=None if keypoints is None else keypoints[row].reshape(-1).tolist(),
            bbox_rotated=None if rotated is None else rotated[row].tolist(),
        )
    return builder.batch()


def _box_area(sample: Sample, row: int) -> float:
    if sample.boxes_xywha is not None:
        return float(sample.boxes_xywha[row, 2:4].prod())
    x0, y0, x1, y1 = sample.boxes_xyxy[row].tolist()
    return float((x1 - x0) * (y1 - y0))
