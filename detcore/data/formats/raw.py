"""What every reader of a raw format gives: columns of images and of objects, split by split."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from detcore.config.data import Split
from detcore.data.annotations import RINGS, SCHEMA
from detcore.data.formats.fields import shown
from detcore.data.keypoints import KeypointLayout
from detcore.data.label_maps import LabelMaps

Splits = Mapping[str, Split]
"""Where the configuration says that the splits lie."""
IMAGE_SCHEMA = pa.schema(
    [
        ("image_id", pa.int64()),
        ("file_name", pa.large_string()),  # relative to the split's folder
        ("height", pa.int32()),  # as the annotations say; 0 where they say nothing
        ("width", pa.int32()),
    ]
)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, kw_only=True)
class RawSplit:
    """One split as the source has it.

    Attributes:
        folder: the folder that `file_name` is relative to.
        images: a row an image, of `IMAGE_SCHEMA`.
        objects: a row an object, of `annotations.SCHEMA`; `sample` is a row of `images`.
        source: the annotation file or folder, for messages.
        maps: the semantic or panoptic map of each image, or None.
        federated: the classes that were looked for in each image, of `federated.FEDERATED_FIELDS`; None where all were.
        left_out: (image file, number of the annotation) of what the source has and no target can say, by reason.
    """

    folder: Path
    images: pa.RecordBatch
    objects: pa.RecordBatch
    source: str
    maps: LabelMaps | None = None
    federated: pa.RecordBatch | None = None
    left_out: dict[str, list[tuple[str, int]]] = field(default_factory=dict)

    def take(self, rows: NDArray[np.int64]) -> Self:
        """These images, in this order, with their objects in the order of the images."""
        place = np.full(self.images.num_rows, -1, np.int32)
        place[rows] = np.arange(len(rows), dtype=np.int32)
        samples = place[self.objects["sample"].to_numpy()]
        kept = np.flatnonzero(samples >= 0)
        kept = kept[np.argsort(samples[kept], kind="stable")]
        objects = self.objects.take(pa.array(kept)).set_column(
            0, self.objects.schema.field("sample"), pa.array(samples[kept])
        )
        images = self.images.take(pa.array(rows))
        files = set(images["file_name"].to_pylist()) if self.left_out else set()
        left_out = {
            reason: [place for place in places if place[0] in files] for reason, places in self.left_out.items()
        }
        return replace(
            self,
            images=images,
            objects=objects,
            maps=None if self.maps is None else self.maps.take(rows),
            federated=None if self.federated is None else self.federated.take(pa.array(rows)),
            left_out={reason: places for reason, places in left_out.items() if places},
        )


@dataclass(frozen=True, kw_only=True)
class RawDataset:
    """What a reader found: names by 0-based class, and the splits that the source has.

    Attributes:
        keypoints: what the keypoints of the objects are, or None.
        semantic_classes: names by class of the semantic maps; none where there are no maps.
        frequencies: whether the source counts each class as rare, common or frequent: r, c or f (LVIS); none where it
            does not say.
    """

    categories: tuple[str, ...]
    splits: dict[str, RawSplit]
    keypoints: KeypointLayout | None = None
    semantic_classes: tuple[str, ...] = ()
    frequencies: tuple[str, ...] = ()


def images_batch(
    *, image_ids: Sequence[int], file_names: Sequence[str], heights: Sequence[int], widths: Sequence[int]
) -> pa.RecordBatch:
    """The columns of `IMAGE_SCHEMA`."""
    columns = [
        pa.array(values, column.type)
        for values, column in zip((image_ids, file_names, heights, widths), IMAGE_SCHEMA, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=IMAGE_SCHEMA)


def boxes_batch(
    *,
    samples: NDArray[np.int32],
    labels: NDArray[np.int32],
    boxes_xywh: NDArray[np.float64],
    crowd: NDArray[np.bool_],
) -> pa.RecordBatch:
    """Objects of `annotations.SCHEMA` that are boxes alone, numbered from 1; their boxes (n, 4) in pixels."""
    known = {
        "sample": pa.array(samples),
        "annotation_id": pa.array(np.arange(1, len(samples) + 1)),
        "label": pa.array(labels),
        "bbox": pa.FixedSizeListArray.from_arrays(pa.array(boxes_xywh.reshape(-1)), 4),
        "area": pa.array(boxes_xywh[:, 2] * boxes_xywh[:, 3]),
        "crowd": pa.array(crowd),
        "polygons": pa.array([[]], RINGS).take(pa.array(np.zeros(len(samples), np.int64))),
    }
    columns = [known.get(column.name, pa.nulls(len(samples), column.type)) for column in SCHEMA]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as a viewer shows it, from its header alone; (0, 0) if it cannot be read.

    Whether the image is whole is found out later, when all are decoded.
    """
    try:
        with Image.open(path) as image:
            turned = image.getexif().get(0x0112, 1) >= 5
            return (image.width, image.height) if turned else (image.height, image.width)
    except Exception:  # decoders raise nearly anything on a broken file
        return 0, 0


def read_text(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte order mark.

    Raises:
        ValueError: it is in another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 (byte {error.start})") from error


def refuse_repeats(where: Path, what: str, names: Iterable[str]) -> None:
    """Raises ValueError, with the names that occur more than once, if there are any."""
    repeated = [str(name) for name, number in Counter(names).items() if number > 1]
    if repeated:
        raise ValueError(f"{where}: {what} more than once: {listing(repeated)}")


def folder_of(candidates: Sequence[Path], names: Sequence[str]) -> Path:
    """The folder that holds the most of some of these images."""
    some = names[:: max(1, len(names) // 20)]
    return max(candidates, key=lambda folder: sum(os.path.isfile(folder / name) for name in some))


def listing(names: Sequence[str], *, most: int = 10) -> str:
    """The first names and how many more there are, for a message of one line."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(name if len(name) < 200 and name.isprintable() else shown(name) for name in names[:most]) + rest
