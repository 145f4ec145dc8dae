"""COCO panoptic: one JSON file a split, and beside it a folder of PNGs whose colours number the segments.

The format: cocodataset.org, 'Panoptic segmentation'; the task: arXiv:1801.00868.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from detcore.data.annotation_building import AnnotationBuilder
from detcore.data.formats.coco import find_json, image_folder, with_labels
from detcore.data.formats.coco_file import read_file
from detcore.data.formats.coco_json import add_image, json_entries
from detcore.data.formats.fields import brief, entries, flag, integer, shown, text
from detcore.data.formats.raw import RawDataset, RawSplit, Splits, images_batch, listing, refuse_repeats
from detcore.data.formats.regions import Region, regions
from detcore.data.label_maps import SEGMENT_SCHEMA, LabelMaps, decode_map, segment_ids, segment_starts

THINGS = "things"
"""The name of semantic class 0, which all things share."""


@dataclass(frozen=True)
class _File:
    """What a split's JSON file holds: `segments` is sorted by image, its categories still ids."""

    path: Path
    images: pa.RecordBatch
    pngs: tuple[Path, ...]
    segments: list[tuple[int, int, int, bool]]  # row of the image, id, category id, crowd
    categories: dict[int, tuple[str, bool]]


def read_coco_panoptic(root: Path, splits: Splits | None = None) -> RawDataset:
    """Reads a folder of COCO's panoptic annotations; the PNGs lie in the folder named as the JSON file without '.json'.

    Classes are the things by rising id. In the semantic maps all things are one class 0, the stuff categories by rising
    id are 1, 2, ..., and pixels of no segment are 255. Boxes and masks of the things come from the file that
    `Split.instances` names (COCO's masks overlap, the segments do not), or else from the segments themselves.

    Raises:
        ValueError: no annotation file, or several for a split; JSON of another form; an image without segments, or
            segments of an unknown category or of no image; categories that differ between the splits or to those of the
            instances; more than 254 stuff categories.
    """
    paths = {name: root / split.annotations for name, split in splits.items()} if splits else {}
    paths = paths or find_json(root, ("annotations/panoptic_{}*.json", "panoptic_{}*.json"))
    files = {name: _read(path) for name, path in paths.items()}
    categories: dict[int, tuple[str, bool]] = {}
    for file in files.values():
        for key, category in file.categories.items():
            if categories.setdefault(key, category) != category:
                raise ValueError(f"{file.path}: category {key} is both {category} and {categories[key]}")
    things = [key for key in sorted(categories) if categories[key][1]]
    stuff = [key for key in sorted(categories) if not categories[key][1]]
    if len(stuff) > 254:
        raise ValueError(f"{root}: {len(stuff)} stuff categories, a semantic map has room for 254")
    names = [categories[key][0] for key in things], [THINGS, *(categories[key][0] for key in stuff)]
    for of_kind in names:
        refuse_repeats(root, "categories with other ids have one name", of_kind)
    numbers = {key: label for label, key in enumerate(things)} | {key: label for label, key in enumerate(stuff, 1)}
    read = {}
    for name, file in files.items():
        own = splits[name] if splits else None
        folder = root / own.images if own else image_folder(root, file.path, file.images["file_name"].to_pylist())
        maps = LabelMaps(files=file.pngs, segments=_segments(file.segments, categories, numbers))
        split = RawSplit(
            folder=folder, images=file.images, objects=AnnotationBuilder().batch(), source=str(file.path), maps=maps
        )
        if own and own.instances:
            read[name] = _with_instances(split, root / own.instances, {key: numbers[key] for key in things})
        else:
            read[name] = replace(split, objects=_things_of_segments(maps, str(file.path)))
    return RawDataset(categories=tuple(names[0]), splits=read, semantic_classes=tuple(names[1]))


def _read(path: Path) -> _File:
    images: dict[str, list[Any]] = {"id": [], "file_name": [], "height": [], "width": []}
    categories: dict[int, tuple[str, bool]] = {}
    annotations: dict[int, tuple[str, list[tuple[int, int, bool]]]] = {}
    where = ""
    try:
        for section, entry in json_entries(path):
            where = f"entry {shown(entry.get('id', entry.get('image_id', '')))} of {section}: "
            if section == "images":
                add_image(images, entry)
            elif section == "categories":
                key = integer(entry, "id")
                if key in categories:
                    raise ValueError("two categories with one id")
                categories[key] = (text(entry, "name"), flag({"isthing": entry["isthing"]}, "isthing"))
            else:
                key = integer(entry, "image_id")
                if key in annotations:
                    raise ValueError("two annotations of one image")
                annotations[key] = (
                    text(entry, "file_name"),
                    [_segment(part) for part in entries(entry, "segments_info")],
                )
    except KeyError as error:
        raise ValueError(f"{path}: {where}{error} is missing") from error
    except ValueError as error:
        raise ValueError(f"{path}: {where}{brief(error)}") from error
    batch = images_batch(
        image_ids=images["id"], file_names=images["file_name"], heights=images["height"], widths=images["width"]
    )
    refuse_repeats(path, "lists an image", map(str, images["id"]))
    refuse_repeats(path, "images with other ids have one file_name", images["file_name"])
    bare = [str(key) for key in images["id"] if key not in annotations]
    lost = [str(key) for key in annotations.keys() - set(images["id"])]
    for what, ids in (("images without annotation", bare), ("annotations of images that are not listed", lost)):
        if ids:
            raise ValueError(f"{path}: {len(ids)} {what}: {listing(sorted(ids))}")
    for file_name, segments in annotations.values():
        refuse_repeats(path, f"{file_name} has a segment", (str(segment[0]) for segment in segments))
        unknown = sorted({category for _, category, _ in segments} - categories.keys())
        if unknown:
            raise ValueError(
                f"{path}: {file_name} has segments of unknown categories: {listing(list(map(str, unknown)))}"
            )
    folder = path.with_suffix("")
    return _File(
        path=path,
        images=batch,
        pngs=tuple(folder / annotations[key][0] for key in images["id"]),
        segments=[(row, *segment) for row, key in enumerate(images["id"]) for segment in annotations[key][1]],
        categories=categories,
    )


def _segment(part: object) -> tuple[int, int, bool]:
    """Id, category id and whether a segment is a crowd region."""
    if not isinstance(part, dict):
        raise ValueError(f"segments_info holds {shown(part)}, not an object")
    return integer(part, "id", least=1, most=2**24 - 1), integer(part, "category_id"), flag(part, "iscrowd")


def _segments(
    segments: list[tuple[int, int, int, bool]], categories: dict[int, tuple[str, bool]], numbers: dict[int, int]
) -> pa.RecordBatch:
    rows, ids, keys, crowd = zip(*segments, strict=True) if segments else ((), (), (), ())
    values = (rows, ids, [numbers[key] for key in keys], [categories[key][1] for key in keys], crowd)
    columns = [pa.array(value, field.type) for value, field in zip(values, SEGMENT_SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=SEGMENT_SCHEMA)


def _with_instances(split: RawSplit, path: Path, labels: dict[int, int]) -> RawSplit:
    """The split with the objects of COCO's own instances for its images."""
    file = read_file(path)
    instances = file.split
    other = sorted(set(file.category_of.tolist()) - labels.keys())
    if other:
        raise ValueError(f"{path}: category {other[0]} is no thing in {split.source}")
    place = {key: row for row, key in enumerate(instances.images["image_id"].to_pylist())}
    wanted = split.images["image_id"].to_pylist()
    absent = [str(key) for key in wanted if key not in place]
    if absent:
        raise ValueError(f"{path}: {len(absent)} images of {split.source} are not in it: {listing(absent)}")
    taken = with_labels(file, labels).take(np.array([place[key] for key in wanted], np.int64))
    return replace(split, objects=taken.objects)


def _things_of_segments(maps: LabelMaps, source: str) -> pa.RecordBatch:
    """The things as objects, each with its pixels as a run-length mask."""
    assert maps.segments is not None  # this format's maps are panoptic
    segments, builder = maps.segments, AnnotationBuilder()
    starts = segment_starts(segments, len(maps.files)).tolist()
    ids, labels, crowd = (segments[name].to_pylist() for name in ("segment_id", "category", "crowd"))
    is_thing = segments["is_thing"].to_pylist()
    wanted = [[row for row in range(*starts[at : at + 2]) if is_thing[row]] for at in range(len(maps.files))]

    def found(sample: int) -> dict[int, Region] | None:
        try:
            return regions(segment_ids(decode_map(maps.files[sample].read_bytes())))
        except (OSError, ValueError, IndexError):
            return None  # prepare's check of the maps will say so, and leave the image out

    with ThreadPoolExecutor() as pool:
        for sample, segments_of in enumerate(pool.map(found, range(len(maps.files)))):
            if segments_of is None:
                continue
            for row in wanted[sample]:
                region = segments_of.get(ids[row])
                if region is None:
                    raise ValueError(f"{source}: segment {ids[row]} has no pixels in {maps.files[sample].name}")
                builder.add(
                    sample=sample,
                    annotation_id=len(builder) + 1,
                    label=labels[row],
                    bbox_xywh=region.bbox_xywh,
                    area=region.area,
                    crowd=crowd[row],
                    segmentation=region.segmentation,
                )
    return builder.batch()
