"""The ground truth of a split as a file beside the detections that were compared with it."""

import gzip
import json
import zlib
from pathlib import Path

from detcore.evaluation.truth import GroundTruth

_MOST = 2 << 30
"""Bytes of JSON; a file of a stranger could unpack to any size."""


def save_truth(truth: GroundTruth, path: Path) -> None:
    """Writes the COCO data set, compressed: the same bytes for the same truth."""
    text = json.dumps(truth.coco, separators=(",", ":")).encode()
    path.write_bytes(gzip.compress(text, compresslevel=6, mtime=0))


def load_truth(path: Path) -> GroundTruth:
    """What `save_truth` wrote.

    Raises:
        ValueError: naming the file, if that is not what it holds, or it unpacks to more than 2 GiB.
    """
    try:
        with gzip.open(path) as file:
            text = file.read(_MOST + 1)
        if len(text) > _MOST:
            raise ValueError("more than 2 GiB of JSON")
        coco = json.loads(text)
    except (OSError, ValueError, EOFError, RecursionError, zlib.error) as error:
        raise ValueError(f"{path}: no ground truth that detcore wrote: {error}") from error
    if not isinstance(coco, dict) or not {"images", "annotations", "categories"} <= coco.keys():
        raise ValueError(f"{path}: no ground truth that detcore wrote: it needs images, annotations and categories")
    return GroundTruth(coco=coco)
