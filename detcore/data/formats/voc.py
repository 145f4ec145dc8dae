"""Pascal VOC: one XML file an image (Everingham et al., 2010; the VOC2012 development kit, section 4)."""

from dataclasses import replace
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np
import pyarrow as pa

from detcore.data.annotation_building import AnnotationBuilder
from detcore.data.annotations import SCHEMA
from detcore.data.formats.fields import LARGEST_SIDE, brief
from detcore.data.formats.raw import (
    IMAGE_SUFFIXES,
    RawDataset,
    RawSplit,
    Splits,
    images_batch,
    listing,
    read_text,
    refuse_repeats,
)
from detcore.data.formats.xml_document import decimal, read_xml, whole_number


def read_voc(root: Path, splits: Splits | None = None) -> RawDataset:
    """Reads a folder of Annotations/*.xml, JPEGImages/ and ImageSets/Main/*.txt, or the one such folder below the root.

    Coordinates are 1-based and inclusive, so the box of xmin, ymin, xmax, ymax covers [xmin - 1, xmax) x [ymin - 1,
    ymax) in pixels. An object with xmax <= xmin or ymax <= ymin encloses nothing: it comes out with zero size, and
    prepare drops it. 'difficult' objects become crowd regions, since VOC scores them neither way. Classes are the
    names of `classes.txt` (or `labels.txt`), a name a line; without one, all names in use, sorted. Image ids count the
    annotated files by name, from 1. With `splits`, `annotations` is a list in ImageSets/Main and `images` a folder,
    both relative to that of the annotations.

    Raises:
        ValueError: no such folder, or several; a list that names no annotation, or one twice; XML that cannot be read
            or holds a document type; an object without name or box; a name that is not among the classes; a class
            stated twice; text that is not UTF-8.
    """
    folder = _voc_folder(root)
    lists = _lists(folder, splits)
    stems = sorted({stem for _, names in lists.values() for stem in names})
    image_ids = {stem: number for number, stem in enumerate(stems, 1)}
    stated = _stated_classes(folder)
    labels = _Labels(stated)
    found = {name: _read_split(folder, images, names, image_ids, labels) for name, (images, names) in lists.items()}
    names = stated or sorted(labels.numbers)
    order = np.array([names.index(name) for name in labels.numbers], np.int32)
    for name, split in found.items():
        renumbered = pa.array(order[split.objects["label"].to_numpy()])
        objects = split.objects.set_column(2, SCHEMA.field("label"), renumbered)
        found[name] = replace(split, objects=objects)
    return RawDataset(categories=tuple(names), splits=found)


class _Labels:
    """Numbers names in the order they come in; only the stated ones, where some are stated."""

    def __init__(self, stated: list[str]) -> None:
        self.numbers = {name: number for number, name in enumerate(stated)}
        self._closed = bool(stated)

    def __getitem__(self, name: str) -> int:
        if self._closed and name not in self.numbers:
            raise ValueError(f"unknown category {name!r}; the classes are {listing(list(self.numbers))}")
        return self.numbers.setdefault(name, len(self.numbers))


def _voc_folder(root: Path) -> Path:
    """The folder that holds Annotations/: the root, or one at most two below it (VOCdevkit/VOC2012)."""
    for pattern in ("Annotations", "*/Annotations", "*/*/Annotations"):
        found = sorted(path.parent for path in root.glob(pattern) if path.is_dir())
        if len(found) > 1:
            raise ValueError(f"{root}: several folders hold Annotations/: {listing([p.name for p in found])}; name one")
        if found:
            return found[0]
    raise ValueError(f"{root}: no folder Annotations/ of Pascal VOC in it or below")


def _lists(folder: Path, splits: Splits | None) -> dict[str, tuple[Path, list[str]]]:
    """The image folder and the annotations' stems of each split."""
    sets = folder / "ImageSets" / "Main"
    if splits:
        return {
            name: (folder / split.images, _read_list(sets / f"{split.annotations.removesuffix('.txt')}.txt", folder))
            for name, split in splits.items()
        }
    images = folder / "JPEGImages"
    files = {name: sets / f"{name}.txt" for name in ("train", "val", "test")}
    if not files["train"].is_file():
        files["train"] = sets / "trainval.txt"
    if files["train"].is_file():
        return {name: (images, _read_list(path, folder)) for name, path in files.items() if path.is_file()}
    return {"train": (images, sorted(path.stem for path in (folder / "Annotations").glob("*.xml")))}


def _read_list(path: Path, folder: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path}: does not exist; set data.splits")
    stems = _lines(path)
    refuse_repeats(path, "lists", stems)
    lost = [stem for stem in stems if not (folder / "Annotations" / f"{stem}.xml").is_file()]
    if lost:
        raise ValueError(f"{path}: {len(lost)} without a file in Annotations/: {listing(lost)}")
    return stems


def _stated_classes(folder: Path) -> list[str]:
    for name in ("classes.txt", "labels.txt"):
        if (folder / name).is_file():
            names = _lines(folder / name)
            refuse_repeats(folder / name, "names a class", names)
            return names
    return []


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _read_split(folder: Path, images: Path, stems: list[str], image_ids: dict[str, int], labels: _Labels) -> RawSplit:
    files = {path.stem: path.name for path in sorted(images.glob("*")) if path.suffix.lower() in IMAGE_SUFFIXES}
    builder = AnnotationBuilder()
    heights, widths = [], []
    for sample, stem in enumerate(stems):
        path = folder / "Annotations" / f"{stem}.xml"
        document = read_xml(path, "annotation")
        try:
            heights.append(_side(document, "height"))
            widths.append(_side(document, "width"))
            for number, element in enumerate(document.iterfind("object"), 1):
                _add_object(builder, element, sample=sample, number=number, labels=labels)
        except ValueError as error:
            raise ValueError(f"{path}: {brief(error)}") from error
    return RawSplit(
        folder=images,
        images=images_batch(
            image_ids=[image_ids[stem] for stem in stems],
            file_names=[files.get(stem, f"{stem}.jpg") for stem in stems],
            heights=heights,
            widths=widths,
        ),
        objects=builder.batch(),
        source=str(folder / "Annotations"),
    )


def _side(document: Element, side: str) -> int:
    return whole_number(document.findtext(f"size/{side}") or "0", side, most=LARGEST_SIDE)


def _add_object(builder: AnnotationBuilder, element: Element, *, sample: int, number: int, labels: _Labels) -> None:
    name = (element.findtext("name") or "").strip()
    texts = [element.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    if not name or None in texts:
        raise ValueError(f"object {number} has no {'bndbox' if name else 'name'}")
    x0, y0, x1, y1 = (decimal(text or "", f"object {number}: bndbox") for text in texts)
    width = x1 - x0 + 1 if x1 > x0 else 0.0
    height = y1 - y0 + 1 if y1 > y0 else 0.0
    builder.add(
        sample=sample,
        annotation_id=len(builder) + 1,
        label=labels[name],
        bbox_xywh=(x0 - 1, y0 - 1, width, height),
        area=width * height,
        crowd=(element.findtext("difficult") or "0").strip() == "1",
    )
