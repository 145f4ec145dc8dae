"""COCO: one JSON file a split, with images, annotations and categories (Lin et al., 2014; cocodataset.org)."""

import re
from array import array
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detcore.data.annotations import SCHEMA, AnnotationBuilder
from detcore.data.formats.coco_json import add_image, json_entries
from detcore.data.formats.raw import RawDataset, RawSplit, Splits, images_batch, listing, refuse_repeats
from detcore.data.keypoints import KeypointLayout
from detcore.data.rotated import upright, without_heading

_ALIASES = {"train": ("train",), "val": ("val", "valid"), "test": ("test",)}
_FILES = ("annotations/instances_{}*.json", "{}/_annotations.coco.json", "annotations/{}*.json", "{}.json")
_WHOLE = (
    *(f"annotations/instances{end}.json" for end in ("_default", "")),
    "annotations.json",
    "_annotations.coco.json",
)


def read_coco(
    root: Path, splits: Splits | None = None, *, angles: str | None = None, ignore: Sequence[str] = ()
) -> RawDataset:
    """Reads a COCO folder.

    Without `splits` the usual layouts are looked for: annotations/instances_{train,val,test}*.json with images/,
    images/{train2017,train}/ or {train2017,train}/; {train,valid,test}/_annotations.coco.json with the images beside
    it; or one file for all, which counts as train. Classes are the categories by rising id. A category without
    annotations that is another's supercategory (Roboflow's first) is not a class.

    Args:
        angles: that every bbox is cx, cy, w, h and an angle in this unit and sense, such as 'radians_cw'; it comes out
            within [-90, 90) degrees, counter-clockwise. None: a bbox is x, y, width, height.
        ignore: names of categories that are no class; their objects become crowd regions, one of each class.

    Raises:
        ValueError: no annotation file, or several for a split; JSON of another form; an annotation whose image,
            category or bbox is missing; one id, file name or category name twice; categories that differ between the
            splits; keypoints that no category names, or of two kinds.
    """
    if splits:
        places = {name: (root / split.annotations, root / split.images) for name, split in splits.items()}
        read = {name: read_file(*place, root, angles=angles) for name, place in places.items()}
    else:
        read = {name: read_file(path, None, root, angles=angles) for name, path in find_json(root).items()}
    used = set(np.concatenate([categories_of for _, categories_of, _ in read.values()]).tolist())
    names: dict[int, str] = {}
    parents: set[str] = set()
    for _, _, categories in read.values():
        for category in categories:
            known = names.setdefault(category["id"], category["name"])
            if known != category["name"]:
                raise ValueError(f"{root}: category {category['id']} is both {known!r} and {category['name']!r}")
            if category.get("supercategory") != category["name"]:
                parents.add(category.get("supercategory", ""))
    classes = [key for key in sorted(names) if key in used or names[key] not in parents]
    unknown = [name for name in ignore if name not in names.values()]
    if unknown:
        raise ValueError(f"{root}: data.ignore names {listing(unknown)}, which is no category")
    classes = [key for key in classes if names[key] not in ignore]
    refuse_repeats(root, "categories with other ids have one name", [names[key] for key in classes])
    labels = {key: label for label, key in enumerate(classes)}
    layout = _keypoint_layout(root, [category for _, _, categories in read.values() for category in categories])
    for split, _, _ in read.values():
        _check_keypoints(split, layout)
    return RawDataset(
        categories=tuple(names[key] for key in classes),
        splits={name: with_labels(split, ids, labels) for name, (split, ids, _) in read.items()},
        keypoints=layout,
    )


def find_json(root: Path, patterns: Sequence[str] = _FILES) -> dict[str, Path]:
    """The annotation file of each split."""
    found: dict[str, Path] = {}
    for split, aliases in _ALIASES.items():
        for pattern in patterns:
            paths = sorted({path for alias in aliases for path in root.glob(pattern.format(alias))})
            if len(paths) > 1:
                raise ValueError(f"{root}: {split} could be {listing([p.name for p in paths])}; set data.splits")
            if paths:
                found[split] = paths[0]
                break
    for name in _WHOLE:
        if not found and (root / name).is_file():
            found["train"] = root / name
    if not found:
        raise ValueError(f"{root}: no COCO annotations such as annotations/instances_train.json; set data.splits")
    return found


def image_folder(root: Path, path: Path, names: list[str]) -> Path:
    """The likely folder that holds the most of some images."""
    year = path.stem.rpartition("_")[2]
    split = re.sub(r"\d+$", "", year)
    names_of = (f"images/{year}", f"images/{split}", year, split, "images", "")
    candidates = [path.parent, *(root / name for name in names_of)]
    some = names[:: max(1, len(names) // 20)]
    return max(candidates, key=lambda folder: sum((folder / name).is_file() for name in some))


def read_file(
    path: Path, folder: Path | None, root: Path, *, angles: str | None = None
) -> tuple[RawSplit, NDArray[np.int64], list[dict[str, Any]]]:
    """A split with its objects' category ids, in place of labels, and the categories of the file."""
    images: dict[str, list[Any]] = {"id": [], "file_name": [], "height": [], "width": []}
    image_of, category_of = array("q"), array("q")
    builder = AnnotationBuilder()
    categories: list[dict[str, Any]] = []
    where = ""
    try:
        for section, entry in json_entries(path):
            where = f"entry {entry.get('id', str(entry)[:60])} of {section}: "
            if section == "images":
                add_image(images, entry)
            elif section == "categories":
                categories.append({**entry, "id": int(entry["id"]), "name": str(entry["name"])})
            else:
                image_of.append(entry["image_id"])
                category_of.append(entry["category_id"])
                _add_object(builder, entry, angles)
    except KeyError as error:
        raise ValueError(f"{path}: {where}{error} is missing") from error
    except (TypeError, IndexError, OverflowError, ValueError) as error:
        raise ValueError(f"{path}: {where}{error}") from error
    batch = images_batch(
        image_ids=images["id"], file_names=images["file_name"], heights=images["height"], widths=images["width"]
    )
    folder = folder or image_folder(root, path, images["file_name"])
    objects = builder.batch()
    ids = np.array(category_of, np.int64)
    _check_ids(path, batch, objects, ids, {category["id"] for category in categories})
    samples = _rows(path, batch["image_id"].to_numpy(), np.array(image_of, np.int64), objects)
    objects = objects.set_column(0, SCHEMA.field("sample"), pa.array(samples))
    return RawSplit(folder=folder, images=batch, objects=objects, source=str(path)), ids, categories


def _add_object(builder: AnnotationBuilder, entry: dict[str, Any], angles: str | None) -> None:
    """Appends an entry of a file's annotations, its sample and label yet unknown."""
    bbox, rotated = entry["bbox"], None
    area = entry.get("area")
    if angles is not None:
        if len(bbox) != 5:
            raise ValueError(f"bbox {bbox!r} is not cx, cy, width, height, angle")
        rotated = np.array([bbox], np.float64)
        unit, _, sense = angles.partition("_")
        turn = np.degrees(rotated[:, 4]) if unit == "radians" else rotated[:, 4]
        rotated[:, 4] = without_heading(-turn if sense == "cw" else turn)
        x0, y0, x1, y1 = upright(rotated)[0].tolist()
        bbox = [x0, y0, x1 - x0, y1 - y0]
        area = rotated[0, 2] * rotated[0, 3] if area is None else area
    builder.add(
        sample=0,
        annotation_id=entry["id"],
        label=0,
        bbox_xywh=bbox,
        area=bbox[2] * bbox[3] if area is None else area,
        crowd=bool(entry.get("iscrowd", 0)),
        segmentation=entry.get("segmentation"),
        keypoints=entry.get("keypoints") or None,
        bbox_rotated=None if rotated is None else rotated[0].tolist(),
    )


def _keypoint_layout(root: Path, categories: list[dict[str, Any]]) -> KeypointLayout | None:
    """The keypoints of the categories that have any; COCO counts the ends of a skeleton's lines from 1."""
    layouts = {
        KeypointLayout.of(c["keypoints"], [[end - 1 for end in line] for line in c.get("skeleton") or ()]): c["name"]
        for c in categories
        if c.get("keypoints")
    }
    if len(layouts) > 1:
        raise ValueError(
            f"{root}: the categories {listing(sorted(layouts.values()))} have keypoints of different kinds"
        )
    return next(iter(layouts), None)


def _check_keypoints(split: RawSplit, layout: KeypointLayout | None) -> None:
    numbers = np.diff(split.objects["keypoints"].offsets.to_numpy())
    expected = 3 * len(layout) if layout else 0
    wrong = np.flatnonzero((numbers > 0) & (numbers != expected))
    if len(wrong):
        raise ValueError(
            f"{split.source}: annotation {split.objects['annotation_id'][int(wrong[0])]} has"
            f" {numbers[wrong[0]] // 3} keypoints, its categories name {len(layout) if layout else 0}"
            f" ({len(wrong)} such annotations)"
        )


def _check_ids(
    path: Path, images: pa.RecordBatch, objects: pa.RecordBatch, category_of: NDArray[np.int64], known: set[int]
) -> None:
    for what, ids in (("images", images["image_id"]), ("annotations", objects["annotation_id"])):
        values, counts = np.unique(ids.to_numpy(), return_counts=True)
        if (counts > 1).any():
            raise ValueError(f"{path}: two {what} with one id: {listing([str(i) for i in values[counts > 1]])}")
    refuse_repeats(path, "images with other ids have one file_name", images["file_name"].to_pylist())
    unknown = np.flatnonzero(~np.isin(category_of, np.array(sorted(known), np.int64)))
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
    rows: NDArray[np.int32] = order[place].astype(np.int32)
    return rows


def with_labels(split: RawSplit, category_of: NDArray[np.int64], labels: dict[int, int]) -> RawSplit:
    """The split with classes for category ids; an object of a category that is no class becomes a crowd region of each.

    Those come last, with ids of their own.
    """
    known = np.isin(category_of, np.array(sorted(labels), np.int64))
    rows, others = np.flatnonzero(known), np.flatnonzero(~known)
    number = np.array([labels[key] for key in category_of[rows].tolist()], np.int32)
    objects = split.objects
    if len(others):
        copies = np.repeat(others, len(labels))
        crowd = objects["crowd"].to_numpy(zero_copy_only=False)[rows]
        ids = objects["annotation_id"].to_numpy()
        new = ids.max() + 1 + np.arange(len(copies))
        objects = objects.take(pa.array(np.concatenate([rows, copies])))
        number = np.concatenate([number, np.tile(np.arange(len(labels), dtype=np.int32), len(others))])
        for name, values in (
            ("annotation_id", np.concatenate([ids[rows], new])),
            ("crowd", np.concatenate([crowd, np.ones(len(copies), np.bool_)])),
        ):
            place = SCHEMA.get_field_index(name)
            objects = objects.set_column(place, SCHEMA.field(name), pa.array(values))
    return replace(split, objects=objects.set_column(2, SCHEMA.field("label"), pa.array(number)))
