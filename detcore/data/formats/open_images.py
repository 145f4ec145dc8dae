"""Open Images: boxes and verified labels as tables, coordinates as fractions of the image (arXiv:1811.00982).

The files: storage.googleapis.com/openimages/web/download_v7.html.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from detcore.data.federated import FEDERATED_FIELDS, class_lists
from detcore.data.formats.fields import shown
from detcore.data.formats.raw import (
    IMAGE_SUFFIXES,
    RawDataset,
    RawSplit,
    Splits,
    boxes_batch,
    images_batch,
    listing,
    refuse_repeats,
    upright_size,
)
from detcore.data.formats.tables import read_table

_ALIASES = {"train": ("train",), "val": ("validation", "val"), "test": ("test",)}
_BOXES, _DESCRIPTIONS = "annotations-bbox.csv", "class-descriptions"
_LABELS = ("annotations-human-imagelabels-boxable.csv", "annotations-human-imagelabels.csv")
_SIDES = ("XMin", "YMin", "XMax", "YMax")
_BOX_COLUMNS = {
    "ImageID": pa.string(),
    "LabelName": pa.string(),
    **dict.fromkeys(_SIDES, pa.float64()),
    "IsGroupOf": pa.int8(),
}
_CLASS_COLUMNS = {"LabelName": pa.string(), "DisplayName": pa.string()}
_LABEL_COLUMNS = {"ImageID": pa.string(), "LabelName": pa.string(), "Confidence": pa.float64()}


def read_open_images(root: Path, splits: Splits | None = None) -> RawDataset:
    """Reads *{train,validation,test}-annotations-bbox.csv, and {train,validation,test}/ImageID.jpg.

    The tables lie in the folder or in its annotations/, csv/ or metadata/. Classes are those of
    *class-descriptions-boxable.csv in its order; where there is only another *class-descriptions*.csv, those of it that
    have boxes. A box with IsGroupOf becomes a crowd region.

    Where a split has *-annotations-human-imagelabels-boxable.csv (or without -boxable) beside its boxes, it is
    federated: classes verified to be absent are negative, those verified to be there without a box are not exhaustive,
    and images that only that table has come after those with boxes. Images are those of the tables, by name; their
    sizes are those of the files. Image ids count them, from 1. The hierarchy of classes is not applied.

    Raises:
        ValueError: no tables of boxes or of classes, or several for one purpose; a table without a column, or with a
            value of another kind; a box of an unknown class; a class or a name twice.
    """
    if splits:
        places = {name: (root / split.annotations, root / split.images) for name, split in splits.items()}
    else:
        places = _find(root)
    boxes = {name: read_table(path, _BOX_COLUMNS) for name, (path, _) in places.items()}
    classes = _classes(root, next(iter(places.values()))[0].parent, boxes)
    found, first_id = {}, 1
    for name, (path, folder) in places.items():
        found[name] = _split(path, folder, boxes[name], classes, first_id=first_id)
        first_id += found[name].images.num_rows
    return RawDataset(categories=tuple(classes.values()), splits=found)


def _find(root: Path) -> dict[str, tuple[Path, Path]]:
    found = {}
    for split, aliases in _ALIASES.items():
        paths = [path for alias in aliases for path in _tables(root, f"*{alias}-{_BOXES}")]
        if len(paths) > 1:
            raise ValueError(f"{root}: {split} could be {listing([path.name for path in paths])}; set data.splits")
        if paths:
            folders = [root / "images" / alias for alias in aliases] + [root / alias for alias in aliases]
            found[split] = (paths[0], next((folder for folder in folders if folder.is_dir()), root / "images"))
    if not found:
        raise ValueError(f"{root}: no boxes of Open Images such as train-{_BOXES}; set data.splits")
    return found


def _tables(root: Path, pattern: str) -> list[Path]:
    return [path for folder in ("", "annotations", "csv", "metadata") for path in sorted((root / folder).glob(pattern))]


def _classes(root: Path, beside: Path, boxes: dict[str, pa.Table]) -> dict[str, str]:
    """The names of the classes by their codes, such as /m/011k07, in their order."""
    for pattern in (f"*{_DESCRIPTIONS}-boxable.csv", f"*{_DESCRIPTIONS}*.csv"):
        paths = _tables(root, pattern) or sorted(beside.glob(pattern))
        if len(paths) > 1:
            raise ValueError(
                f"{root}: the classes could be those of {listing([path.name for path in paths])}; keep one"
            )
        if paths:
            break
    else:
        raise ValueError(f"{root}: no *{_DESCRIPTIONS}-boxable.csv, which names the classes")
    table = read_table(paths[0], _CLASS_COLUMNS, header=False)
    codes, names = (table[name].to_pylist() for name in _CLASS_COLUMNS)
    if (codes[0], names[0]) == tuple(_CLASS_COLUMNS):  # only later versions have a header
        codes, names = codes[1:], names[1:]
    refuse_repeats(paths[0], "describes a class", codes)
    if "boxable" not in paths[0].name:
        used = {code for table in boxes.values() for code in pc.unique(table["LabelName"]).to_pylist()}
        names = [name for code, name in zip(codes, names, strict=True) if code in used]
        codes = [code for code in codes if code in used]
    refuse_repeats(paths[0], "names a class", names)
    return dict(zip(codes, names, strict=True))


def _split(path: Path, folder: Path, boxes: pa.Table, classes: dict[str, str], *, first_id: int) -> RawSplit:
    """One split, its images by name."""
    beside = [path.with_name(path.name.replace(_BOXES, end)) for end in _LABELS]
    verified = next((read_table(table, _LABEL_COLUMNS) for table in beside if table.is_file()), None)
    names = boxes["ImageID"].unique().to_pylist()
    if verified is not None:
        names = list({*names, *verified["ImageID"].unique().to_pylist()})
    names.sort()
    there = {file.stem: file.name for file in folder.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES}
    files = [there.get(name, f"{name}.jpg") for name in names]
    sizes = [upright_size(folder / file) for file in files]
    samples, labels = _numbers(boxes["ImageID"], names), _numbers(boxes["LabelName"], list(classes))
    unknown = np.flatnonzero(labels < 0)
    if len(unknown):
        row = int(unknown[0])
        raise ValueError(f"{path}: row {row + 2}: unknown class {shown(boxes['LabelName'][row].as_py())}")
    height, width = np.array(sizes, np.float64).reshape(-1, 2)[samples].T
    x0, y0, x1, y1 = (boxes[side].to_numpy() * size for side, size in zip(_SIDES, (width, height) * 2, strict=True))
    return RawSplit(
        folder=folder,
        images=images_batch(
            image_ids=range(first_id, first_id + len(names)),
            file_names=files,
            heights=[height for height, _ in sizes],
            widths=[width for _, width in sizes],
        ),
        objects=boxes_batch(
            samples=samples,
            labels=labels,
            boxes_xywh=np.stack([x0, y0, x1 - x0, y1 - y0], axis=1),
            crowd=boxes["IsGroupOf"].to_numpy() == 1,
        ),
        source=str(path),
        federated=None if verified is None else _federated(verified, names, list(classes), samples, labels),
    )


def _federated(
    verified: pa.Table, names: list[str], codes: list[str], samples: NDArray[np.int32], labels: NDArray[np.int32]
) -> pa.RecordBatch:
    """What was verified of each image; labels that are no class aside."""
    images, classes = _numbers(verified["ImageID"], names), _numbers(verified["LabelName"], codes)
    pairs = images.astype(np.int64) * len(codes) + classes
    absent = verified["Confidence"].to_numpy() == 0
    boxed = samples.astype(np.int64) * len(codes) + labels
    negative = np.unique(pairs[absent & (classes >= 0)])
    not_exhaustive = np.setdiff1d(pairs[~absent & (classes >= 0)], boxed)
    lists = [class_lists(*np.divmod(rows, len(codes)), num_images=len(names)) for rows in (negative, not_exhaustive)]
    return pa.RecordBatch.from_arrays(lists, schema=pa.schema(FEDERATED_FIELDS))


def _numbers(column: pa.ChunkedArray, of: list[str]) -> NDArray[np.int32]:
    """The place of each text in a list, -1 where it is not in it."""
    found: NDArray[np.int32] = pc.fill_null(pc.index_in(column, value_set=pa.array(of, pa.string())), -1).to_numpy()
    return found
