"""All detections of a data set in one file: columns, as Parquet."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from detcore.evaluation.results import Results

_REQUIRED = ("image_id", "category_id", "score", "bbox_xyxy")


def save_detections(results: Results, path: Path) -> None:
    """Writes image_id, category_id, score, bbox_xyxy, and what else there is: mask_rle, keypoints, bbox_xywha."""
    columns: dict[str, Any] = {
        "image_id": results.image_ids,
        "category_id": results.category_ids,
        "score": results.scores,
        "bbox_xyxy": _lists(results.boxes_xyxy),
    }
    if results.rles is not None:
        columns["mask_rle"] = pa.array(results.rles, pa.binary())
    if results.keypoints is not None:
        columns["keypoints"] = _lists(results.keypoints.reshape(len(results.scores), -1))
    if results.boxes_xywha is not None:
        columns["bbox_xywha"] = _lists(results.boxes_xywha)
    parquet.write_table(pa.table(columns), path, compression="zstd")


def load_detections(path: Path, sizes: Mapping[int, tuple[int, int]]) -> Results:
    """What `save_detections` wrote.

    Args:
        path: the file.
        sizes: height and width of each image by its id.

    Raises:
        ValueError: it is no such file, or it has detections in other images than these.
    """
    try:
        table = parquet.read_table(path)
    except (pa.ArrowInvalid, FileNotFoundError) as error:
        raise ValueError(f"{path}: no Parquet file of detections: {' '.join(str(error).split())[:200]}") from error
    missing = [name for name in _REQUIRED if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: has no column {', '.join(missing)}: detcore writes such files as detections.parquet")
    image_ids: NDArray[np.int64] = table["image_id"].to_numpy()
    unknown = image_ids[~np.isin(image_ids, np.fromiter(sizes, np.int64, len(sizes)))]
    if len(unknown):
        raise ValueError(f"{path}: has detections in image {unknown[0]}, which the ground truth does not have")
    keypoints = _array(table, "keypoints")
    return Results(
        image_ids=image_ids,
        category_ids=table["category_id"].to_numpy(),
        boxes_xyxy=_required(table, "bbox_xyxy"),
        scores=table["score"].to_numpy(),
        sizes=np.array([sizes[image] for image in image_ids.tolist()], dtype=np.int64).reshape(-1, 2),
        rles=table["mask_rle"].to_pylist() if "mask_rle" in table.column_names else None,
        keypoints=None if keypoints is None else keypoints.reshape(len(keypoints), -1, 3),
        boxes_xywha=_array(table, "bbox_xywha"),
    )


def _lists(values: NDArray[np.float64]) -> pa.FixedSizeListArray:
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float64).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _required(table: pa.Table, name: str) -> NDArray[np.float64]:
    column = table[name].combine_chunks()
    width: int = column.type.list_size
    values: NDArray[np.float64] = column.flatten().to_numpy().reshape(-1, width)
    return values


def _array(table: pa.Table, name: str) -> NDArray[np.float64] | None:
    return _required(table, name) if name in table.column_names else None
