"""DOTA: a text file an image, a line an object: its four corners, class and difficulty (arXiv:1711.10398)."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from detcore.data.annotation_building import AnnotationBuilder
from detcore.data.annotations import SCHEMA
from detcore.data.formats.fields import brief
from detcore.data.formats.raw import (
    IMAGE_SUFFIXES,
    RawDataset,
    RawSplit,
    Splits,
    images_batch,
    listing,
    read_text,
    refuse_repeats,
    upright_size,
)
from detcore.data.rotated import smallest_box, upright

_LABELS, _IMAGES = "{}/labelTxt*", "{}/images"
_HEADERS = ("imagesource:", "gsd:", "acquisition dates:")


def read_dota(root: Path, splits: Splits | None = None) -> RawDataset:
    """Reads a folder of {train,val,test}/labelTxt*/NAME.txt beside {train,val,test}/images/NAME.png.

    A quadrilateral becomes the smallest rotated box around it, its width the longer side, its angle within [-90, 90).
    An object of difficulty 1 or 2 becomes a crowd region, which counts neither way. Classes are all names in use,
    sorted. Image ids count the label files by name, from 1. Large images are taken whole: cut them into tiles first.

    Raises:
        ValueError: no label files; a line of another form; an image or a label file without the other.
    """
    folders = _folders(root, splits)
    read = {name: _read_split(labels, images) for name, (labels, images) in folders.items()}
    names = sorted({name for _, used in read.values() for name in used})
    found, first_id = {}, 1
    for split_name, (split, used) in read.items():
        numbers = pa.array(np.array([names.index(name) for name in used], np.int32))
        ids = pa.array(np.arange(first_id, first_id + split.images.num_rows))
        first_id += split.images.num_rows
        found[split_name] = replace(
            split,
            images=split.images.set_column(0, split.images.schema.field("image_id"), ids),
            objects=split.objects.set_column(2, SCHEMA.field("label"), numbers),
        )
    return RawDataset(categories=tuple(names), splits=found)


def _folders(root: Path, splits: Splits | None) -> dict[str, tuple[Path, Path]]:
    if splits:
        return {name: (root / split.annotations, root / split.images) for name, split in splits.items()}
    found = {}
    for name in ("train", "val", "test"):
        labels = sorted(path for path in root.glob(_LABELS.format(name)) if path.is_dir())
        if len(labels) > 1:
            raise ValueError(f"{root}: {name} could be {listing([path.name for path in labels])}; set data.splits")
        if labels:
            found[name] = (labels[0], root / _IMAGES.format(name))
    if not found:
        raise ValueError(f"{root}: no label files of DOTA such as train/labelTxt/*.txt; set data.splits")
    return found


def _read_split(labels: Path, images: Path) -> tuple[RawSplit, list[str]]:
    """A split and the name of each object's class."""
    paths = sorted(labels.glob("*.txt"))
    if not paths:
        raise ValueError(f"{labels}: no label files (*.txt)")
    files = [path for path in sorted(images.glob("*")) if path.suffix.lower() in IMAGE_SUFFIXES]
    refuse_repeats(images, "images of one name", [path.stem for path in files])
    of_stem = {path.stem: path.name for path in files}
    for what, lost in (
        ("label files without an image", [path.name for path in paths if path.stem not in of_stem]),
        ("images without a label file", sorted(of_stem.keys() - {path.stem for path in paths})),
    ):
        if lost:
            raise ValueError(f"{labels}: {len(lost)} {what} in {images}: {listing(lost)}")
    corners: list[list[float]] = []
    samples: list[int] = []
    names: list[str] = []
    crowd: list[bool] = []
    for sample, path in enumerate(paths):
        for number, line in enumerate(read_text(path).splitlines(), 1):
            if line.strip() and not line.lower().startswith(_HEADERS):
                try:
                    numbers, name, difficulty = _parse(line)
                except ValueError as error:
                    raise ValueError(f"{path}:{number}: {brief(error)}") from error
                corners.append(numbers)
                samples.append(sample)
                names.append(name)
                crowd.append(difficulty > 0)
    sizes = [upright_size(images / of_stem[path.stem]) for path in paths]
    builder = AnnotationBuilder()
    rotated = smallest_box(np.array(corners, np.float64).reshape(-1, 4, 2))
    around = upright(rotated).tolist()
    for row, (box, (x0, y0, x1, y1)) in enumerate(zip(rotated.tolist(), around, strict=True)):
        builder.add(
            sample=samples[row],
            annotation_id=row + 1,
            label=0,
            bbox_xywh=(x0, y0, x1 - x0, y1 - y0),
            area=box[2] * box[3],
            crowd=crowd[row],
            bbox_rotated=box,
        )
    batch = images_batch(
        image_ids=[0] * len(paths),
        file_names=[of_stem[path.stem] for path in paths],
        heights=[size[0] for size in sizes],
        widths=[size[1] for size in sizes],
    )
    return RawSplit(folder=images, images=batch, objects=builder.batch(), source=str(labels)), names


def _parse(line: str) -> tuple[list[float], str, int]:
    """x0 y0 ... x3 y3 class difficulty; the difficulty may be missing."""
    words = line.split()
    if len(words) not in (9, 10):
        raise ValueError(f"{line.strip()[:60]!r} is not 8 numbers, a class and a difficulty")
    numbers = [float(word) for word in words[:8]]
    if not np.isfinite(numbers).all():
        raise ValueError(f"{line.strip()[:60]!r} has a corner that is not a finite number")
    return numbers, words[8], int(words[9]) if len(words) == 10 else 0
