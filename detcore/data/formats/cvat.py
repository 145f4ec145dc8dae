"""CVAT's XML 1.1, for images and for videos (docs.cvat.ai, 'XML annotation format')."""

import os
from dataclasses import replace
from pathlib import Path

from detcore.data.annotation_building import AnnotationBuilder
from detcore.data.formats.cvat_document import CvatDocument, CvatImage, read_document
from detcore.data.formats.cvat_shapes import NO_TARGETS, Shape, add_shape
from detcore.data.formats.fields import shown
from detcore.data.formats.raw import RawDataset, RawSplit, Splits, images_batch, listing, upright_size
from detcore.data.keypoints import KeypointLayout

_ALIASES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
_FILES = ("{}.xml", "{}/annotations.xml", "annotations/{}.xml")
_SUBSETS = {alias: split for split, aliases in _ALIASES.items() for alias in aliases} | {
    "": "train",
    "default": "train",
}


def read_cvat(root: Path, splits: Splits | None = None) -> RawDataset:
    """Reads annotations.xml, or one file a split: {train,val,test}.xml or {train,val,test}/annotations.xml.

    In the one file, images of the subsets Train, Validation (or Val) and Test are those splits; those of none or of
    'default' are train. The images lie beside the file or in images/, also below the name of their subset.

    Boxes, polygons, ellipses and masks become objects with such an outline. Skeletons become keypoints, and so do
    points where there are no skeletons and all have the same number, two or more. Where any box is rotated, every box
    has a rotated one. Tracks count frame by frame, in straight lines between the frames that the file has; images/
    frame_000000.png is frame 0, and frames without a shape are images without objects. Polylines, cuboids, tags and
    other points are left out and counted. Classes are the labels in the order of the file. Image ids count the images,
    from 1.

    Raises:
        ValueError: no such file; XML that cannot be read; a shape of another form or with a label that the file does
            not list; an image twice; keypoints of different kinds; masks that do not fit their image.
    """
    if splits:
        documents = {name: read_document(root / own.annotations, [root / own.images]) for name, own in splits.items()}
    elif (root / "annotations.xml").is_file():
        documents = _by_subset(read_document(root / "annotations.xml", [root / "images", root]))
    else:
        documents = {
            name: read_document(
                path, [path.parent / "images", path.parent, *(root / at for at in (f"images/{name}", "images", name))]
            )
            for name, path in _find(root).items()
        }
    labels = list(dict.fromkeys(label for document in documents.values() for label in document.labels))
    shapes = [shape for document in documents.values() for image in document.images for shape in image.shapes]
    layout = _layout(root, [document.layouts for document in documents.values()], shapes)
    rotated = any(shape.rotation_deg for shape in shapes if shape.kind == "box")
    found, first_id = {}, 1
    for name, document in documents.items():
        found[name] = _split(document, labels, layout, rotated=rotated, first_id=first_id)
        first_id += len(document.images)
    return RawDataset(categories=tuple(labels), splits=found, keypoints=layout)


def _find(root: Path) -> dict[str, Path]:
    found = {}
    for split, aliases in _ALIASES.items():
        paths = [root / pattern.format(alias) for alias in aliases for pattern in _FILES]
        paths = [path for path in paths if path.is_file()]
        if len(paths) > 1:
            raise ValueError(
                f"{root}: {split} could be {listing([str(p.relative_to(root)) for p in paths])}; set data.splits"
            )
        if paths:
            found[split] = paths[0]
    if not found:
        raise ValueError(f"{root}: no annotations.xml of CVAT, nor train.xml; set data.splits")
    return found


def _by_subset(document: CvatDocument) -> dict[str, CvatDocument]:
    """The splits that the subsets of a file's images are; an image may lie in the folder of its subset."""
    groups: dict[str, list[CvatImage]] = {}
    for image in document.images:
        if image.subset.lower() not in _SUBSETS:
            raise ValueError(
                f"{document.path}: image {shown(image.name)} is of subset {shown(image.subset)}, which is none of"
                " Train, Validation and Test; export each subset, and set data.splits"
            )
        below = f"{image.subset}/{image.name}"
        if image.subset and os.path.isfile(document.folder / below):
            image = replace(image, name=below)
        groups.setdefault(_SUBSETS[image.subset.lower()], []).append(image)
    return {split: replace(document, images=images) for split, images in groups.items()}


def _layout(root: Path, layouts: list[dict[str, KeypointLayout]], shapes: list[Shape]) -> KeypointLayout | None:
    """The keypoints of skeletons, or else of points that are always as many."""
    kinds = {layout for own in layouts for layout in own.values()}
    if len(kinds) > 1:
        names = sorted({label for own in layouts for label in own})
        raise ValueError(f"{root}: the skeletons {listing(names)} have different points")
    if any(shape.kind == "skeleton" for shape in shapes) and not kinds:
        raise ValueError(f"{root}: there are skeletons, but no label has points (labels with a parent in meta)")
    if kinds:
        return kinds.pop()
    counts = {len(shape.numbers) // 2 for shape in shapes if shape.kind == "points"}
    if len(counts) == 1 and (count := counts.pop()) > 1:
        return KeypointLayout.of([str(number + 1) for number in range(count)])
    return None


def _split(
    document: CvatDocument, labels: list[str], layout: KeypointLayout | None, *, rotated: bool, first_id: int
) -> RawSplit:
    builder = AnnotationBuilder()
    left_out: dict[str, list[tuple[str, int]]] = {}
    names = () if layout is None else layout.names
    no_targets = (*NO_TARGETS, "points") if layout is None or document.layouts else NO_TARGETS
    for sample, image in enumerate(document.images):
        size = (image.height, image.width)
        if any(shape.kind == "mask" for shape in image.shapes):
            size = _true_size(document, image)
        for number, shape in enumerate(image.shapes, 1):
            if shape.kind in no_targets:
                left_out.setdefault(f"{shape.kind}, which is no target", []).append((image.name, number))
            elif all(size) or shape.kind != "mask":  # prepare names an image that cannot be read, and leaves it out
                try:
                    add_shape(
                        builder,
                        shape,
                        sample=sample,
                        label=labels.index(shape.label),
                        size=size,
                        keypoints=names,
                        rotated=rotated,
                    )
                except ValueError as error:
                    raise ValueError(f"{document.path}: image {shown(image.name)}: shape {number}: {error}") from error
    return RawSplit(
        folder=document.folder,
        images=images_batch(
            image_ids=range(first_id, first_id + len(document.images)),
            file_names=[image.name for image in document.images],
            heights=[image.height for image in document.images],
            widths=[image.width for image in document.images],
        ),
        objects=builder.batch(),
        source=str(document.path),
        left_out=left_out,
    )


def _true_size(document: CvatDocument, image: CvatImage) -> tuple[int, int]:
    """Height and width of an image whose file agrees with what is stated, or (0, 0) where it cannot be read."""
    size, stated = upright_size(document.folder / image.name), (image.height, image.width)
    if all(size) and all(stated) and sorted(size) != sorted(stated):  # sorted: it may be turned by its EXIF
        raise ValueError(
            f"{document.path}: image {shown(image.name)} is {size[1]} x {size[0]}, not {stated[1]} x {stated[0]}"
        )
    return stated if all(size) and all(stated) else size
