"""COCO: one JSON file a split, with images, annotations and categories (Lin et al., 2014; cocodataset.org)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from detcore.data.annotations import SCHEMA
from detcore.data.federated import relabelled
from detcore.data.formats.coco_file import Category, CocoFile, read_file
from detcore.data.formats.fields import shown
from detcore.data.formats.raw import RawDataset, RawSplit, Splits, folder_of, listing, refuse_repeats
from detcore.data.keypoints import KeypointLayout

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
    places: dict[str, tuple[Path, Path | None]]
    if splits:
        places = {name: (root / split.annotations, root / split.images) for name, split in splits.items()}
    else:
        places = {name: (path, None) for name, path in find_json(root).items()}
    read = {name: read_file(path, angles=angles) for name, (path, _) in places.items()}
    return combined(root, read, {name: folder for name, (_, folder) in places.items()}, ignore=ignore)


def combined(
    root: Path,
    read: dict[str, CocoFile],
    folders: Mapping[str, Path | None],
    *,
    ignore: Sequence[str] = (),
    frequencies: Mapping[int, str] | None = None,
) -> RawDataset:
    """The files of the splits as one data set, with classes for categories.

    Args:
        root: of the data set.
        read: the file of each split.
        folders: of each split's images; None is looked for.
        ignore: as of `read_coco`.
        frequencies: of each category, by id.
    """
    used = set(np.concatenate([file.category_of for file in read.values()]).tolist())
    names: dict[int, str] = {}
    parents: set[str] = set()
    for category in (category for file in read.values() for category in file.categories):
        known = names.setdefault(category["id"], category["name"])
        if known != category["name"]:
            raise ValueError(f"{root}: category {category['id']} is both {shown(known)} and {shown(category['name'])}")
        if category.get("supercategory") != category["name"]:
            parents.add(category.get("supercategory") or "")
    classes = [key for key in sorted(names) if key in used or names[key] not in parents]
    unknown = [name for name in ignore if name not in names.values()]
    if unknown:
        raise ValueError(f"{root}: data.ignore names {listing(unknown)}, which is no category")
    classes = [key for key in classes if names[key] not in ignore]
    refuse_repeats(root, "categories with other ids have one name", [names[key] for key in classes])
    labels = {key: label for label, key in enumerate(classes)}
    layout = _keypoint_layout(root, [category for file in read.values() for category in file.categories])
    for file in read.values():
        _check_keypoints(file.split, layout)
    return RawDataset(
        categories=tuple(names[key] for key in classes),
        splits={
            name: replace(with_labels(file, labels), folder=folders[name] or _folder(root, file))
            for name, file in read.items()
        },
        keypoints=layout,
        frequencies=tuple(frequencies[key] for key in classes) if frequencies else (),
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
        raise ValueError(f"{root}: no annotations such as {patterns[0].format('train')}; set data.splits")
    return found


def image_folder(root: Path, path: Path, names: list[str]) -> Path:
    """The likely folder that holds the most of some images."""
    year = path.stem.rpartition("_")[2]
    split = re.sub(r"\d+$", "", year)
    names_of = (f"images/{year}", f"images/{split}", year, split, "images", "")
    return folder_of([path.parent, *(root / name for name in names_of)], names)


def _folder(root: Path, file: CocoFile) -> Path:
    return image_folder(root, Path(file.split.source), file.split.images["file_name"].to_pylist())


def _keypoint_layout(root: Path, categories: list[Category]) -> KeypointLayout | None:
    """The keypoints of the categories that have any; COCO counts the ends of a skeleton's lines from 1."""
    layouts: dict[KeypointLayout, str] = {}
    for category in (category for category in categories if category.get("keypoints")):
        lines = [[end - 1 for end in line] for line in category.get("skeleton") or ()]
        try:
            layouts[KeypointLayout.of(category["keypoints"], lines)] = category["name"]
        except ValueError as error:
            raise ValueError(f"{root}: category {shown(category['name'])}: {error}") from error
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


def with_labels(file: CocoFile, labels: dict[int, int]) -> RawSplit:
    """The file with classes for category ids; an object of a category that is no class becomes a crowd region of each.

    Those come last, with ids of their own.
    """
    split, category_of = file.split, file.category_of
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
    federated = None if split.federated is None else relabelled(split.federated, labels)
    return replace(split, objects=objects.set_column(2, SCHEMA.field("label"), pa.array(number)), federated=federated)
