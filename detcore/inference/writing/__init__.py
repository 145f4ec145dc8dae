"""Predictions as data sets on disk, in the formats that annotation tools and other trainers read."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

from detcore.inference.writing.coco import CocoWriter
from detcore.inference.writing.cvat import CvatWriter
from detcore.inference.writing.table import CsvWriter
from detcore.inference.writing.writer import Writer, common_folder
from detcore.inference.writing.yolo import YoloWriter

Format = Literal["coco", "yolo", "cvat", "csv"]
FORMATS: tuple[Format, ...] = get_args(Format)
_WRITERS: dict[Format, Callable[..., Writer]] = {
    "coco": CocoWriter,
    "yolo": YoloWriter,
    "cvat": CvatWriter,
    "csv": CsvWriter,
}

__all__ = ["FORMATS", "Format", "Writer", "common_folder", "writer_of"]


def writer_of(
    format: Format,
    folder: Path | str,
    *,
    categories: Sequence[str],
    keypoint_names: Sequence[str] = (),
    skeleton: Sequence[tuple[int, int]] = (),
    root: Path | None = None,
) -> Writer:
    """Something that takes predictions one by one and leaves a data set in `folder`; a context manager.

    Args:
        format: 'coco' (annotations.json), 'yolo' (data.yaml, labels/), 'cvat' (annotations.xml) or 'csv'
            (detections.csv).
        folder: made if there is none.
        categories: names of all classes that the detector knows.
        keypoint_names, skeleton: of its keypoints.
        root: the images' names are relative to it; None leaves of a file its name alone.

    Raises:
        ValueError: an unknown format, or a folder with the labels of another run.
    """
    if format not in _WRITERS:
        raise ValueError(f"format {format!r}: take {', '.join(FORMATS)}")
    return _WRITERS[format](
        Path(folder), categories=categories, keypoint_names=keypoint_names, skeleton=skeleton, root=root
    )
