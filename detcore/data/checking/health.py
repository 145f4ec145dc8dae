"""hotcoco's health check, its findings under our names."""

import contextlib
import io
from collections.abc import Mapping
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
    found: list[Finding] = []
    for name, path in paths.items():
        try:
            found += _findings(_health(str(path)), name, None)
        except (ValueError, OSError) as error:
            found += finding("no_health_check", [f"{name}: {path.name}: {error}"])
    return found


def health_of_splits(splits: Mapping[str, RawSplit]) -> list[Finding]:
    """The health of splits that were read, of any format."""
    found: list[Finding] = []
    for name, split in splits.items():
        found += _findings(_health(_as_coco(split)), name, split)
    return found


def _health(source: str | dict[str, Any]) -> dict[str, Any]:
    import hotcoco  # here, for whoever trains imports the room of data

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        health: dict[str, Any] = hotcoco.COCO(source).healthcheck()
    return health


def _findings(health: dict[str, Any], name: str, split: RawSplit | None) -> list[Finding]:
    found = []
    for entry in [*health["errors"], *health["warnings"]]:
        code, ids = entry["code"], entry["affected_ids"]
        if code not in _OWN:
            places = [f"{name}: id {number}" for number in ids]
            if split is not None:
                rows = np.flatnonzero(np.isin(split.objects["annotation_id"].to_numpy(), ids))
                places = describe_objects(name, split, rows)
            found += finding(code, places or [f"{name}: {entry['message']}"])
    return found


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
