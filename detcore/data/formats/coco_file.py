"""One JSON file of the COCO format as columns, its objects still of category ids in place of classes."""

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detcore.data.annotation_building import AnnotationBuilder
from detcore.data.annotations import SCHEMA
from detcore.data.federated import looked_for
from detcore.data.formats.coco_json import add_image, json_entries
from detcore.data.formats.fields import LARGEST_SIDE, brief, entries, flag, integer, numbers, shown, text
from detcore.data.formats.raw import RawSplit, images_batch, listing, refuse_repeats
from detcore.data.rotated import upright, without_heading

Category = dict[str, Any]
"""An entry of a file's categories, its id an int and its name a str."""


@dataclass(frozen=True, kw_only=True)
class CocoFile:
    """What a file says.

    Attributes:
        split: its images, and its objects with label 0; `folder` is not yet known.
        category_of: (n,) int64, the category id of each object.
        categories: in the order of the file.
    """

    split: RawSplit
    category_of: NDArray[np.int64]
    categories: list[Category]


def read_file(path: Path, *, angles: str | None = None, federated: bool = False) -> CocoFile:
    """Reads a file.

    Args:
        path: of the file.
        angles: as of `read_coco`.
        federated: that images say, as LVIS has it, which categories were looked for in vain (neg_category_ids), and of
            which not all objects are annotated (not_exhaustive_category_ids), and that they may be named by coco_url.

    Raises:
        ValueError: naming the file and the entry: what is wrong with it.
    """
    images: dict[str, list[Any]] = {"id": [], "file_name": [], "height": [], "width": []}
    negative: list[list[int]] = []
    not_exhaustive: list[list[int]] = []
    image_of, category_of = array("q"), array("q")
    builder = AnnotationBuilder()
    categories: list[Category] = []
    where = ""
    try:
        for section, entry in json_entries(path):
            where = f"entry {_name_of(entry)} of {section}: "
            if section == "images":
                if federated:
                    entry = _named(entry)
                    negative.append(_ids(entry, "neg_category_ids"))
                    not_exhaustive.append(_ids(entry, "not_exhaustive_category_ids"))
                add_image(images, entry)
            elif section == "categories":
                categories.append(_category(entry))
            else:
                image_of.append(integer(entry, "image_id"))
                category_of.append(integer(entry, "category_id"))
                _add_object(builder, entry, angles)
            where = f"after {where}"
    except KeyError as error:
        raise ValueError(f"{path}: {where}{error} is missing") from error
    except (TypeError, OverflowError, ValueError) as error:
        raise ValueError(f"{path}: {where}{brief(error)}") from error
    batch = images_batch(
        image_ids=images["id"], file_names=images["file_name"], heights=images["height"], widths=images["width"]
    )
    objects = builder.batch()
    ids = np.array(category_of, np.int64)
    _check_ids(path, batch, objects, ids, categories, {key for own in (*negative, *not_exhaustive) for key in own})
    samples = _rows(path, batch["image_id"].to_numpy(), np.array(image_of, np.int64), objects)
    objects = objects.set_column(0, SCHEMA.field("sample"), pa.array(samples))
    split = RawSplit(
        folder=path.parent,
        images=batch,
        objects=objects,
        source=str(path),
        federated=looked_for(negative, not_exhaustive) if federated else None,
    )
    return CocoFile(split=split, category_of=ids, categories=categories)


def _name_of(entry: dict[str, Any]) -> str:
    name = entry.get("id")
    return brief(name) if isinstance(name, int | str) else shown(entry)


def _named(entry: dict[str, Any]) -> dict[str, Any]:
    """LVIS v1 names an image by where it is: the last two parts of http://.../train2017/000000391895.jpg."""
    if "file_name" in entry:
        return entry
    return {**entry, "file_name": "/".join(text(entry, "coco_url").rsplit("/", 2)[1:])}


def _ids(entry: dict[str, Any], key: str) -> list[int]:
    values = entries(entry, key)
    return [integer({key: value}, key) for value in values]


def _category(entry: dict[str, Any]) -> Category:
    """An entry of a file's categories, what the readers use of it checked."""
    names, lines = entry.get("keypoints") or [], entry.get("skeleton") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"keypoints {shown(names)} is not a list of names")
    if not isinstance(lines, list):
        raise ValueError(f"skeleton {shown(lines)} is not a list of pairs of keypoints")
    for line in lines:
        if not isinstance(line, list) or {*map(type, line)} - {int}:
            raise ValueError(f"skeleton: {shown(line)} is no pair of keypoints")
    if entry.get("supercategory"):
        text(entry, "supercategory")
    return {**entry, "id": integer(entry, "id"), "name": text(entry, "name")}


def _add_object(builder: AnnotationBuilder, entry: dict[str, Any], angles: str | None) -> None:
    """Appends an entry of a file's annotations, its sample and label yet unknown."""
    bbox, rotated = numbers(entry["bbox"], "bbox"), None
    area, keypoints = entry.get("area"), entry.get("keypoints")
    if area is not None and type(area) not in (int, float):
        raise ValueError(f"area {shown(area)} is not a number")
    if angles is not None:
        if len(bbox) != 5:
            raise ValueError(f"bbox {shown(bbox)} is not cx, cy, width, height, angle")
        rotated = np.array([bbox], np.float64)
        unit, _, sense = angles.partition("_")
        with np.errstate(invalid="ignore"):  # prepare drops what is not finite
            turn = np.degrees(rotated[:, 4]) if unit == "radians" else rotated[:, 4]
            rotated[:, 4] = without_heading(-turn if sense == "cw" else turn)
            x0, y0, x1, y1 = upright(rotated)[0].tolist()
        bbox = [x0, y0, x1 - x0, y1 - y0]
        area = rotated[0, 2] * rotated[0, 3] if area is None else area
    elif len(bbox) != 4:
        hint = "; for rotated boxes set data.format to coco_rotated" if len(bbox) == 5 else ""
        raise ValueError(f"bbox {shown(bbox)} is not x, y, width, height{hint}")
    builder.add(
        sample=0,
        annotation_id=integer(entry, "id"),
        label=0,
        bbox_xywh=bbox,
        area=bbox[2] * bbox[3] if area is None else area,
        crowd=flag(entry, "iscrowd"),
        segmentation=_segmentation(entry.get("segmentation")),
        keypoints=None if keypoints is None else numbers(keypoints, "keypoints") or None,
        bbox_rotated=None if rotated is None else rotated[0].tolist(),
    )


def _segmentation(value: Any) -> Any:
    """COCO's three forms: rings, a mask of counts in a string or in a list, or nothing."""
    if value is None or value in ([], {}):
        return None
    if isinstance(value, list):
        return [numbers(ring, "a ring of segmentation") for ring in value]
    if not isinstance(value, dict) or not {"counts", "size"} <= value.keys():
        raise ValueError(f"segmentation {shown(value)} is neither rings of x, y pairs nor a mask with counts and size")
    size = [integer({"size": side}, "size", least=1, most=LARGEST_SIDE) for side in entries(value, "size")]
    if len(size) != 2:
        raise ValueError(f"size {shown(size)} of a mask is not height, width")
    counts = value["counts"]
    if isinstance(counts, str):
        return {"counts": text(value, "counts"), "size": size}
    runs = [integer({"counts": run}, "counts", least=0) for run in entries(value, "counts")]
    return {"counts": runs, "size": size}


def _check_ids(
    path: Path,
    images: pa.RecordBatch,
    objects: pa.RecordBatch,
    category_of: NDArray[np.int64],
    categories: list[Category],
    looked_for: set[int],
) -> None:
    keys = [category["id"] for category in categories]
    for what, ids in (
        ("images", images["image_id"].to_numpy()),
        ("annotations", objects["annotation_id"].to_numpy()),
        ("categories", np.array(keys, np.int64)),
    ):
        values, counts = np.unique(ids, return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"{path}: two {what} with one id: {listing([str(i) for i in values[counts > 1]])}")
    refuse_repeats(path, "images with other ids have one file_name", images["file_name"].to_pylist())
    if lost := sorted(looked_for - set(keys)):
        raise ValueError(f"{path}: unknown category {lost[0]} is among those looked for in an image")
    unknown = np.flatnonzero(~np.isin(category_of, np.array(sorted(keys), np.int64)))
    if len(unknown):
        first = int(unknown[0])
        raise ValueError(
            f"{path}: unknown category {category_of[first]} in annotation {objects['annotation_id'][first]}"
            f" ({len(unknown)} such annotations)"
        )


def _rows(
    path: Path, image_ids: NDArray[np.int64], image_of: NDArray[np.int64], objects: pa.RecordBatch
) -> NDArray[np.int32]:
    """The row of each object's image."""
    order = np.argsort(image_ids)
    place = np.searchsorted(image_ids[order], image_of).clip(max=max(len(order) - 1, 0))
    lost = np.flatnonzero(image_ids[order[place]] != image_of) if len(order) else np.arange(len(image_of))
    if len(lost):
        first = int(lost[0])
        raise ValueError(
            f"{path}: annotation {objects['annotation_id'][first]} is of image {image_of[first]}, which is not listed"
        )
    rows: NDArray[np.int32] = order[place].astype(np.int32) if len(order) else np.zeros(0, np.int32)
    return rows
