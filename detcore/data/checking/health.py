"""hotcoco's health check, its findings under our names."""

import contextlib
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detcore.data.annotations import Annotations
from detcore.data.checking.findings import Finding, finding
from detcore.data.checking.objects import describe_objects
from detcore.data.formats import RawSplit

_OWN = ("degenerate_bbox", "bbox_out_of_bounds", "zero_instance_category", "low_instance_category")
"""What our own checks tell, split by split and by what prepare does about it."""


def health_of_files(paths: Mapping[str, Path]) -> list[Finding]:
    """The health of COCO's annotation files of each split, read or not by our own readers."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, path in paths.items():
        try:
            health = _health(str(path))
        except (ValueError, OSError) as error:
            places["no_health_check"].append(f"{name}: {path.name}: {error}")
            continue
        for code, ids in _codes(health):
            places[code] += [f"{name}: id {number}" for number in ids]
    return [one for code, where in places.items() for one in finding(code, where)]


def health_of_splits(splits: Mapping[str, RawSplit]) -> list[Finding]:
    """The health of splits that were read, of any format."""
    places: dict[str, list[str]] = defaultdict(list)
    for name, split in splits.items():
        for code, ids in _codes(_health(_as_coco(split))):
            rows = np.flatnonzero(np.isin(split.objects["annotation_id"].to_numpy(), ids))
            places[code] += describe_objects(name, split, rows)
    return [one for code, where in places.items() for one in finding(code, where)]


def _health(source: str | dict[str, Any]) -> dict[str, Any]:
    import hotcoco  # here, for whoever trains imports the room of data

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        health: dict[str, Any] = hotcoco.COCO(source).healthcheck()
    return health


def _codes(health: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """What was found, and the ids of where, but for what is told by our own checks."""
    for entry in [*health["errors"], *health["warnings"]]:
        if entry["code"] not in _OWN:
            yield entry["code"], entry["affected_ids"]


def _as_coco(split: RawSplit) -> dict[str, Any]:
    """A split as COCO's JSON, masks left out: the health check does not look into them."""
    objects = split.objects
    columns = Annotations(objects, num_samples=0)
    samples = objects["sample"].to_numpy()
    boxes, areas = columns.boxes_xywh.tolist(), columns.areas.tolist()
    crowd, finite = columns.crowd.tolist(), np.isfinite(columns.boxes_xywh).all(axis=1) & np.isfinite(columns.areas)
    return {
        "images": [
            {"id": row, "file_name": "", "height": height, "width": width}
            for row, (height, width) in enumerate(
                zip(split.images["height"].to_pylist(), split.images["width"].to_pylist(), strict=True)
            )
        ],
        "annotations": [
            {
                "id": int(columns.ids[row]),
                "image_id": int(samples[row]),
                "category_id": int(columns.labels[row]) + 1,
                "bbox": boxes[row],
                "area": areas[row],
                "iscrowd": int(crowd[row]),
            }
            for row in np.flatnonzero(finite).tolist()
        ],
        "categories": [{"id": int(label) + 1, "name": str(label)} for label in np.unique(columns.labels)],
    }
