"""COCO's files of annotations and of results, by whatever framework they were made, as truth and detections."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.results import Results
from detcore.evaluation.truth import GroundTruth

_NUMBERS = {"bbox": 4, "bbox_rotated": 5, "keypoints": None}
"""How many numbers each of these has; keypoints have three for each."""
KINDS = {"bbox": "boxes", "segmentation": "masks", "keypoints": "keypoints", "bbox_rotated": "rotated"}
"""What a row of results may have, and the kind of prediction that it is."""
_RUN_LENGTHS = bytes(range(48, 48 + 64))
"""The characters that compressed run lengths are made of: six bits each."""


def read_annotations(path: str | Path) -> GroundTruth:
    """A COCO file of annotations; LVIS's with it.

    Raises:
        ValueError: if it is none, with what is missing in it, and where.
        OSError: if it cannot be read.
    """
    data = _parsed(path)
    lists = ("images", "annotations", "categories")
    if not isinstance(data, dict) or any(not isinstance(data.get(name), list) for name in lists):
        raise ValueError(f"{path}: no COCO file of annotations: it must hold the lists {', '.join(lists)}")
    for name, keys in (("images", ("id", "height", "width")), ("categories", ("id", "name"))):
        _expect_keys(data[name], keys, where=f"{path}: {name}")
    annotations = data["annotations"]
    _expect_keys(annotations, ("id", "image_id", "category_id", "bbox"), where=f"{path}: annotations")
    for name in ("image", "category"):
        known = {entry["id"] for entry in data["images" if name == "image" else "categories"]}
        _expect_known([a[f"{name}_id"] for a in annotations], known, what=name, where=f"{path}: annotations")
    for name in lists:
        _expect_unique([entry["id"] for entry in data[name]], where=f"{path}: {name}")
    _numbers(annotations, "bbox", [f"{path}: annotations, entry {place}" for place in range(len(annotations))])
    for annotation in annotations:
        annotation.setdefault("iscrowd", 0)
        annotation.setdefault("area", annotation["bbox"][2] * annotation["bbox"][3])
    return GroundTruth(coco=data)


def read_results(path: str | Path, truth: GroundTruth) -> tuple[Results, tuple[str, ...]]:
    """A COCO file of results, and the kinds of prediction that all its rows have.

    Raises:
        ValueError: if it is none, or does not belong to the truth, with the row.
        OSError: if it cannot be read.
    """
    rows = _parsed(path)
    if not isinstance(rows, list):
        raise ValueError(f"{path}: no COCO file of results: it must be a list of detections")
    _expect_keys(rows, ("image_id", "category_id", "score"), where=str(path))
    images = {image["id"]: (image["height"], image["width"]) for image in truth.coco["images"]}
    _expect_known([row["image_id"] for row in rows], images, what="image", where=str(path))
    categories = {category["id"] for category in truth.coco["categories"]}
    _expect_known([row["category_id"] for row in rows], categories, what="category", where=str(path))
    fields = [name for name in KINDS if all(name in row for row in rows)] if rows else ["bbox"]
    if not fields:
        raise ValueError(f"{path}: rows must all have one of {', '.join(KINDS)}")
    order = np.argsort([row["image_id"] for row in rows], kind="stable")  # of one image, as in the file
    rows = [rows[place] for place in order.tolist()]
    where = [f"{path}: entry {place}" for place in order.tolist()]
    numbers = {name: _numbers(rows, name, where) for name in fields if name in _NUMBERS}
    boxes = numbers.get("bbox", np.zeros((len(rows), 4)))
    keypoints = numbers.get("keypoints")
    if keypoints is not None and truth.num_keypoints and keypoints.shape[1] != 3 * truth.num_keypoints:
        raise ValueError(
            f"{path}: {keypoints.shape[1] // 3} keypoints in a row, "
            f"objects of the annotations have {truth.num_keypoints}"
        )
    return Results(
        image_ids=np.array([row["image_id"] for row in rows], dtype=np.int64),
        category_ids=np.array([row["category_id"] for row in rows], dtype=np.int64),
        boxes_xyxy=np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1),
        scores=_numbers(rows, "score", where)[:, 0],
        sizes=np.array([images[row["image_id"]] for row in rows], dtype=np.int64).reshape(-1, 2),
        rles=_run_lengths(rows, images, where) if "segmentation" in fields else None,
        # COCO's numbers are those of pixels, whose centres lie half a pixel further.
        keypoints=None if keypoints is None else keypoints.reshape(len(rows), -1, 3) + np.array([0.5, 0.5, 0.0]),
        boxes_xywha=numbers.get("bbox_rotated"),
    ), tuple(KINDS[name] for name in fields)


def _parsed(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_bytes())
    except ValueError as error:  # also where the bytes are no text
        raise ValueError(f"{path}: no JSON ({error})") from None


def _expect_keys(entries: Sequence[Any], keys: Sequence[str], *, where: str) -> None:
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f"{where}, entry {place}: {entry!r:.40} is no object with {', '.join(keys)}")
        for key in keys:
            if key not in entry:
                raise ValueError(f"{where}, entry {place}: has no {key}")


def _expect_known(ids: Sequence[Any], known: Any, *, what: str, where: str) -> None:
    for place, number in enumerate(ids):
        if not isinstance(number, int) or number not in known:
            raise ValueError(f"{where}, entry {place}: {what}_id {number!r} is not in the annotations")


def _expect_unique(ids: Sequence[Any], *, where: str) -> None:
    seen: set[Any] = set()
    for place, number in enumerate(ids):
        if not isinstance(number, int) or number in seen:
            raise ValueError(f"{where}, entry {place}: id {number!r} must be a whole number of its own")
        seen.add(number)


def _numbers(rows: Sequence[dict[str, Any]], name: str, where: Sequence[str]) -> NDArray[np.float64]:
    """(n, count) float64, all finite."""
    count = 1 if name == "score" else _NUMBERS[name] or len(rows[0][name])
    if not rows:
        return np.zeros((0, count))
    try:
        table = np.array([row[name] for row in rows], dtype=np.float64).reshape(len(rows), -1)
    except (ValueError, TypeError):
        table = np.zeros((len(rows), 0))
    good = table.shape[1] == count and (name != "keypoints" or count % 3 == 0)
    if not (good and np.isfinite(table).all()):
        place = next((at for at, row in enumerate(rows) if not _finite(row[name], count)), 0)
        raise ValueError(f"{where[place]}: {name} {rows[place][name]!r:.80} must be {count} finite numbers")
    return table


def _finite(value: Any, count: int) -> bool:
    try:
        numbers = np.array(value, dtype=np.float64).ravel()
    except (ValueError, TypeError):
        return False
    return len(numbers) == count and bool(np.isfinite(numbers).all())


def _run_lengths(rows: Sequence[dict[str, Any]], images: dict[int, Any], where: Sequence[str]) -> list[bytes]:
    counts = []
    for place, row in enumerate(rows):
        rle = row["segmentation"]
        text = rle.get("counts") if isinstance(rle, dict) else None
        own = text.encode() if isinstance(text, str) else b"\n"
        if own.translate(None, _RUN_LENGTHS):
            raise ValueError(f"{where[place]}: segmentation must be compressed run lengths, {{size, counts: text}}")
        if tuple(rle.get("size", ())) != images[row["image_id"]]:
            raise ValueError(
                f"{where[place]}: segmentation is of size {rle.get('size')}, "
                f"the image is {list(images[row['image_id']])} (height, width)"
            )
        counts.append(own)
    return counts
