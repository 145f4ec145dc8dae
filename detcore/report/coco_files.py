"""Detections and truth of other programs: a COCO results file and a COCO annotations file."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from detcore.data.formats.coco_json import json_entries
from detcore.data.formats.fields import integer, numbers, shown, side, text
from detcore.evaluation import GroundTruth, Results

_PIXEL_CENTRE = 0.5
"""COCO's keypoints number pixels, whose centres lie half a pixel further."""


def read_annotations(path: Path) -> GroundTruth:
    """A COCO annotations file, its objects as they are there.

    Raises:
        ValueError: it is no such file; the message names the entry.
    """
    lists: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": [], "categories": []}
    checks = {"images": _image, "annotations": _annotation, "categories": _category}
    seen: dict[str, set[int]] = {name: set() for name in lists}
    try:
        for name, entry in json_entries(path):
            place = f"{name}[{len(lists[name])}]"
            try:
                number, own = integer(entry, "id"), checks[name](entry)
            except KeyError as error:
                raise ValueError(f"{place} has no {error.args[0]}") from None
            except ValueError as error:
                raise ValueError(f"{place}: {error}") from None
            if number in seen[name]:
                raise ValueError(f"{place}: id {number} is there twice")
            seen[name].add(number)
            lists[name].append(own)
        for index, annotation in enumerate(lists["annotations"]):
            for key, of in (("image_id", "images"), ("category_id", "categories")):
                if annotation[key] not in seen[of]:
                    raise ValueError(f"annotations[{index}]: {key} {annotation[key]} is not among the {of}")
        if not lists["images"]:
            raise ValueError("has no images")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return GroundTruth(coco=lists)


def _image(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "height": side(entry, "height"), "width": side(entry, "width")}


def _category(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "name": text(entry, "name")}


def _annotation(entry: dict[str, Any]) -> dict[str, Any]:
    box = list(numbers(entry["bbox"], "bbox"))
    if len(box) != 4 or not all(map(math.isfinite, box)):
        raise ValueError(f"bbox {shown(box)} is not x, y, width, height")
    for key in ("image_id", "category_id"):
        integer(entry, key)
    area = entry.get("area")
    if area is None:
        area = box[2] * box[3]
    elif type(area) not in (int, float) or not math.isfinite(area):
        raise ValueError(f"area {shown(area)} is not a number")
    own = {**entry, "bbox": box, "area": area, "iscrowd": int(bool(entry.get("iscrowd")))}
    if entry.get("segmentation") == []:
        del own["segmentation"]
    return own


def read_results(path: Path, truth: GroundTruth) -> tuple[Results, tuple[str, ...]]:
    """A COCO results file: a list of image_id, category_id, score and bbox, segmentation or keypoints.

    Returns:
        The detections, by image, then falling score; and of which kinds they are: boxes, masks, keypoints, rotated.

    Raises:
        ValueError: it is no such file, or not of this truth; the message names the entry.
    """
    rows = _rows(path)
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth.coco["images"]}
    columns = _Columns(path, rows)
    images = columns.integers("image_id", sizes)
    categories = columns.integers("category_id", {c["id"]: None for c in truth.coco["categories"]})
    scores = columns.floats("score", 1)[:, 0]
    there = [key for key in ("bbox", "segmentation", "keypoints", "bbox_rotated") if rows and key in rows[0]]
    own_sizes = np.array([sizes[image] for image in images.tolist()], dtype=np.int64).reshape(-1, 2)
    rles = columns.masks(own_sizes) if "segmentation" in there else None
    keypoints = (
        columns.keypoints(truth.num_keypoints or len(rows[0]["keypoints"]) // 3) if "keypoints" in there else None
    )
    rotated = columns.floats("bbox_rotated", 5) if "bbox_rotated" in there else None
    if "bbox" in there:
        boxes = columns.floats("bbox", 4)
    elif rles is not None:
        lengths = [{"size": size, "counts": rle} for size, rle in zip(own_sizes.tolist(), rles, strict=True)]
        boxes = np.asarray(coco_mask.toBbox(lengths), dtype=np.float64).reshape(-1, 4)
    elif keypoints is not None:
        low, high = keypoints[..., :2].min(axis=1), keypoints[..., :2].max(axis=1)
        boxes = np.concatenate((low, high - low), axis=1)
    elif rows:
        raise ValueError(f"{path}: [0] has neither bbox nor segmentation nor keypoints")
    else:
        boxes = np.zeros((0, 4))
    names = {"bbox": "boxes", "segmentation": "masks", "keypoints": "keypoints", "bbox_rotated": "rotated"}
    results = Results(
        image_ids=images,
        category_ids=categories,
        boxes_xyxy=np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1),
        scores=scores,
        sizes=own_sizes,
        rles=rles,
        keypoints=keypoints,
        boxes_xywha=rotated,
    )
    return results, tuple(names[key] for key in there) or ("boxes",)


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"{path}: does not exist")
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}: holds {shown(rows)}, not COCO's list of results")
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: [{index}] is {shown(row)}, not an object")
    return rows


class _Columns:
    """The entries of a results file, key by key; an error names the first entry that is at fault."""

    def __init__(self, path: Path, rows: Sequence[dict[str, Any]]) -> None:
        self._path, self._rows = path, rows

    def integers(self, key: str, known: Mapping[int, object]) -> NDArray[np.int64]:
        def value(row: dict[str, Any], _: int) -> int:
            if type(row[key]) is not int or row[key] not in known:
                raise ValueError(f"{key} {shown(row[key])} is not among those of the annotations")
            return int(row[key])

        return np.array(self._each(value), dtype=np.int64)

    def floats(self, key: str, count: int) -> NDArray[np.float64]:
        """(n, count), all finite."""
        values = self._each(lambda row, _: row[key] if count > 1 else [row[key]])
        try:
            array = np.array(values, dtype=np.float64).reshape(len(values), count)
        except (ValueError, TypeError):
            index = next(i for i, value in enumerate(values) if not _is_numbers(value, count))
            value = values[index] if count > 1 else values[index][0]
            wanted = f"{count} numbers" if count > 1 else "a number"
            raise self._fault(index, f"{key} {shown(value)} is not {wanted}") from None
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if len(bad):
            raise self._fault(int(bad[0]), f"{key} {shown(values[bad[0]])} is not finite")
        return array

    def keypoints(self, count: int) -> NDArray[np.float64]:
        """(n, count, 3)."""
        points = self.floats("keypoints", 3 * count).reshape(-1, count, 3)
        points[..., :2] += _PIXEL_CENTRE
        return points

    def masks(self, sizes: NDArray[np.int64]) -> list[bytes]:
        of_images = sizes.tolist()
        return self._each(lambda row, place: _run_length(row["segmentation"], of_images[place]))

    def _each(self, value: Callable[[dict[str, Any], int], Any]) -> list[Any]:
        found = []
        for index, row in enumerate(self._rows):
            try:
                found.append(value(row, index))
            except KeyError as error:
                raise self._fault(index, f"has no {error.args[0]}") from None
            except ValueError as error:
                raise self._fault(index, str(error)) from None
        return found

    def _fault(self, index: int, what: str) -> ValueError:
        return ValueError(f"{self._path}: [{index}]: {what}")


def _is_numbers(value: object, count: int) -> bool:
    return isinstance(value, list) and len(value) == count and all(type(one) in (int, float) for one in value)


def _run_length(value: Any, size: list[int]) -> bytes:
    """Compressed, of an image of this (height, width)."""
    if not all(size):
        raise ValueError("the annotations do not say how large its image is")
    try:
        if isinstance(value, list):
            return bytes(coco_mask.merge(coco_mask.frPyObjects(value, *size))["counts"])
        if list(value["size"]) != size:
            raise ValueError(f"its mask is of {shown(value['size'])}, its image of {size}")
        if isinstance(value["counts"], list):
            return bytes(coco_mask.frPyObjects(value, *size)["counts"])
        return str(value["counts"]).encode("ascii")
    except (TypeError, KeyError, IndexError, UnicodeEncodeError):
        raise ValueError(f"segmentation {shown(value)} is neither polygons nor a run length") from None
