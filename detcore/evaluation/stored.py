"""Detections and their ground truth as files, so that two models can be compared long after they were measured.

Detections are safetensors, columns of exact float64: a tenth of the time and half of the bytes of COCO's JSON, which
`Results.rows` gives. Nothing in either file is run when it is read.
"""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from detcore.evaluation.results import Results

DETECTIONS = "detections.safetensors"
TRUTH = "truth.json.gz"

_COLUMNS = ("image_ids", "category_ids", "boxes_xyxy", "scores", "sizes", "keypoints", "boxes_xywha")
_SHAPES = {"boxes_xyxy": (4,), "sizes": (2,), "boxes_xywha": (5,)}
_MOST_TRUTH = 2 << 30
"""Bytes of JSON; a file of a stranger could unpack to any size."""


def results_bytes(results: Results) -> bytes:
    """The content of `detections.safetensors`."""
    columns: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(column) for name in _COLUMNS if (column := getattr(results, name)) is not None
    }
    if results.rles is not None:
        columns["rles"] = np.frombuffer(b"".join(results.rles), dtype=np.uint8)
        columns["rle_lengths"] = np.array([len(rle) for rle in results.rles], dtype=np.int64)
    return save(columns)


def read_results(path: Path) -> Results:
    """The detections that `results_bytes` wrote.

    Raises:
        ValueError: naming the file, if that is not what it holds.
    """
    try:
        columns = load(path.read_bytes())
    except SafetensorError as error:
        raise ValueError(f"{path}: {error}") from error
    rle_bytes, lengths = columns.pop("rles", None), columns.pop("rle_lengths", None)
    count = len(columns.get("scores", ()))
    for name in ("image_ids", "category_ids", "boxes_xyxy", "scores", "sizes"):
        if name not in columns:
            raise ValueError(f"{path}: no column {name}: these are no detections")
    for name, column in columns.items():
        own = column.shape[1:] == _SHAPES.get(name, column.shape[1:])
        if name not in _COLUMNS or len(column) != count or not own:
            raise ValueError(f"{path}: column {name} has the shape {column.shape} beside {count} scores")
    rles = None
    if rle_bytes is not None and lengths is not None:
        ends = np.cumsum(lengths)
        if len(lengths) != count or (count and (lengths.min() < 0 or ends[-1] != len(rle_bytes))):
            raise ValueError(f"{path}: {len(lengths)} masks in {len(rle_bytes)} bytes beside {count} scores")
        data = rle_bytes.tobytes()
        rles = [data[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]
    return Results(**columns, rles=rles)


def truth_bytes(coco: dict[str, Any]) -> bytes:
    """The content of `truth.json.gz`: the same for the same ground truth."""
    return gzip.compress(json.dumps(coco, separators=(",", ":")).encode(), compresslevel=6, mtime=0)


def read_truth(path: Path) -> dict[str, Any]:
    """A COCO data set, from .json.gz or .json.

    Raises:
        ValueError: naming the file, if it is none, or unpacks to more than 2 GiB.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            text = file.read(_MOST_TRUTH + 1)
        if len(text) > _MOST_TRUTH:
            raise ValueError("more than 2 GiB of JSON")
        coco = json.loads(text)
    except (ValueError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(coco, dict) or not {"images", "annotations", "categories"} <= coco.keys():
        raise ValueError(f"{path}: no COCO data set: it needs images, annotations and categories")
    return coco
