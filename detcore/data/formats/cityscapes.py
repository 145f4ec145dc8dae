"""Cityscapes: street scenes with outlines of 8 kinds of things and maps of 19 classes (arXiv:1604.01685)."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from detcore.data.annotation_building import AnnotationBuilder
from detcore.data.formats.coco_json import load_json
from detcore.data.formats.fields import LARGEST_SIDE, brief, entries, integer, numbers, shown, text
from detcore.data.formats.raw import RawDataset, RawSplit, Splits, images_batch, listing, upright_size
from detcore.data.formats.regions import regions
from detcore.data.label_maps import UNLABELLED, LabelMaps

LABEL_IDS = {
    "unlabeled": 0, "ego vehicle": 1, "rectification border": 2, "out of roi": 3, "static": 4, "dynamic": 5,
    "ground": 6, "road": 7, "sidewalk": 8, "parking": 9, "rail track": 10, "building": 11, "wall": 12, "fence": 13,
    "guard rail": 14, "bridge": 15, "tunnel": 16, "pole": 17, "polegroup": 18, "traffic light": 19, "traffic sign": 20,
    "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28,
    "caravan": 29, "trailer": 30, "train": 31, "motorcycle": 32, "bicycle": 33, "license plate": -1,
}  # fmt: skip
"""The labels of the polygons, with their numbers in the PNGs; a license plate has none."""
SEMANTIC_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Those that the benchmark evaluates, in its order; all others are not labelled."""
THINGS = SEMANTIC_CLASSES[11:]
_IMAGE_END, _MAP_END, _POLYGONS_END = "_leftImg8bit.png", "_gtFine_labelIds.png", "_gtFine_polygons.json"


def read_cityscapes(root: Path, splits: Splits | None = None) -> RawDataset:
    """Reads leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png and gtFine/ beside it.

    Instances come from NAME_gtFine_polygons.json: the polygons are drawn in their order, so what is nearer covers what
    is behind it, and what is left to see of one is its run-length mask, as in the benchmark's own instance images. A
    polygon of a group (cargroup) is a crowd region. Semantic maps come from NAME_gtFine_labelIds.png, in the classes
    that the benchmark evaluates. Without `splits` there is no test: its published annotations are empty. Image ids
    count the images by path, from 1.

    Raises:
        ValueError: no such folders, no images in one, or images without polygons or labels; polygons in another form,
            with an unknown label or of another size than their image.
    """
    folders = {name: (root / split.images, root / split.annotations) for name, split in (splits or {}).items()}
    if not splits:
        pairs = {name: (root / "leftImg8bit" / name, root / "gtFine" / name) for name in ("train", "val")}
        folders = {name: pair for name, pair in pairs.items() if pair[0].is_dir()}
    if not folders:
        raise ValueError(f"{root}: no folder leftImg8bit/train of Cityscapes; set data.splits")
    found, first_id = {}, 1
    for name, (images, labels) in folders.items():
        found[name] = _read_split(images, labels, first_id=first_id)
        first_id += found[name].images.num_rows
    return RawDataset(categories=THINGS, splits=found, semantic_classes=SEMANTIC_CLASSES)


def _class_of() -> NDArray[np.int16]:
    """`LabelMaps.class_of` of the labelIds."""
    class_of = np.full(256, -1, np.int16)
    class_of[[number for number in LABEL_IDS.values() if number >= 0]] = class_of[UNLABELLED] = UNLABELLED
    class_of[[LABEL_IDS[name] for name in SEMANTIC_CLASSES]] = np.arange(len(SEMANTIC_CLASSES))
    return class_of


def _read_split(images: Path, labels: Path, *, first_id: int) -> RawSplit:
    files = sorted(str(path.relative_to(images)) for path in images.rglob(f"*{_IMAGE_END}"))
    if not files:
        raise ValueError(f"{images}: no images *{_IMAGE_END}")
    stems = [file.removesuffix(_IMAGE_END) for file in files]
    for end in (_MAP_END, _POLYGONS_END):
        absent = [stem + end for stem in stems if not (labels / (stem + end)).is_file()]
        if absent:
            raise ValueError(f"{labels}: {len(absent)} files of images are not there: {listing(absent)}")
    builder = AnnotationBuilder()
    sizes = [upright_size(images / file) for file in files]
    hidden: list[tuple[str, int]] = []
    for row, (stem, size) in enumerate(zip(stems, sizes, strict=True)):
        if all(size):  # prepare names and leaves out what cannot be read
            numbers_hidden = _add_instances(builder, labels / f"{stem}{_POLYGONS_END}", row, size)
            hidden += [(files[row], number) for number in numbers_hidden]
    return RawSplit(
        folder=images,
        images=images_batch(
            image_ids=range(first_id, first_id + len(files)),
            file_names=files,
            heights=[height for height, _ in sizes],
            widths=[width for _, width in sizes],
        ),
        objects=builder.batch(),
        source=str(labels),
        left_out={"wholly behind others": hidden} if hidden else {},
        maps=LabelMaps(files=tuple(labels / f"{stem}{_MAP_END}" for stem in stems), class_of=_class_of()),
    )


def _add_instances(builder: AnnotationBuilder, path: Path, sample: int, size: tuple[int, int]) -> list[int]:
    """Appends what is to see of an image's things; returns the numbers of those of which nothing is."""
    document = load_json(path)
    where = ""
    try:
        stated = (integer(document, "imgHeight"), integer(document, "imgWidth"))
        if stated != size:
            raise ValueError(f"imgHeight, imgWidth are {stated}, those of the image {size}")
        canvas = Image.new("I", size[::-1])
        pencil = ImageDraw.Draw(canvas)
        instances: dict[int, tuple[int, bool]] = {}
        for number, entry in enumerate(entries(document, "objects"), 1):
            where = f"object {number}: "
            name, points = _polygon(entry)
            label = name.removesuffix("group") if name not in LABEL_IDS else name
            if label not in LABEL_IDS:
                raise ValueError(f"unknown label {name!r}")
            if LABEL_IDS[label] < 0 or entry.get("deleted"):
                continue
            pencil.polygon(points, fill=number)
            if label in THINGS:
                instances[number] = (THINGS.index(label), label != name)
    except KeyError as error:
        raise ValueError(f"{path}: {where}{error} is missing") from error
    except ValueError as error:
        raise ValueError(f"{path}: {where}{brief(error)}") from error
    seen = regions(np.asarray(canvas))
    for number, (label_number, crowd) in instances.items():
        if number in seen:
            region = seen[number]
            builder.add(
                sample=sample,
                annotation_id=len(builder) + 1,
                label=label_number,
                bbox_xywh=region.bbox_xywh,
                area=region.area,
                crowd=crowd,
                segmentation=region.segmentation,
            )
    return [number for number in instances if number not in seen]


def _polygon(entry: Any) -> tuple[str, list[tuple[float, float]]]:
    """The label and the points of an object."""
    if not isinstance(entry, dict):
        raise ValueError(f"{shown(entry)} is not an object")
    points = [numbers(point, "a point of polygon") for point in entries(entry, "polygon")]
    finite = all(abs(value) <= LARGEST_SIDE for point in points for value in point)  # what is no number is not <=
    if len(points) < 3 or not finite or any(len(point) != 2 for point in points):
        raise ValueError(f"polygon {shown(points)} is not 3 or more finite points x, y")
    return text(entry, "label"), [(x, y) for x, y in points]
