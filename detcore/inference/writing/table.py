"""Predictions as a table: a row a detection."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from detcore.inference.prediction import Prediction
from detcore.inference.writing.writer import Writer

_BOX = ("x1", "y1", "x2", "y2")
_ROTATED = ("cx", "cy", "w", "h", "angle_deg")


def table_rows(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    """A row a detection: image, class, score and box; then mask, rotated box and keypoints, where there are any.

    Boxes and keypoints in pixels; a mask as the counts of COCO's run lengths, of the image's height and width.
    """
    rows = []
    for prediction in predictions:
        for found in prediction.to_dict()["detections"]:
            row = {"image": prediction.name, "height": prediction.height, "width": prediction.width}
            row |= {name: found[name] for name in ("label", "class_name", "score")}
            row |= zip(_BOX, found["box_xyxy"], strict=True)
            if "track_id" in found:
                row["track_id"] = found["track_id"]
            if "mask" in found:
                row["mask_counts"] = found["mask"]["counts"]
            if "box_xywha" in found:
                row |= zip(_ROTATED, found["box_xywha"], strict=True)
            points = found.get("keypoints", ())
            names = prediction.keypoint_names or tuple(map(str, range(1, len(points) + 1)))
            for name, point in zip(names, points, strict=True):
                row |= zip((f"{name}_x", f"{name}_y", f"{name}_score"), point, strict=True)
            rows.append(row)
    return rows


class CsvWriter(Writer):
    """detections.csv: `table_rows`, as they come."""

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self._file = (folder / "detections.csv").open("w", newline="", encoding="utf-8")
        self._writer: csv.DictWriter[str] | None = None

    def add(self, prediction: Prediction) -> None:
        for row in table_rows([prediction]):
            if self._writer is None:
                self._writer = csv.DictWriter(self._file, list(row))
                self._writer.writeheader()
            self._writer.writerow(row)

    def close(self) -> None:
        if self._writer is None:
            csv.writer(self._file).writerow(["image", "height", "width", "label", "class_name", "score", *_BOX])
        self._file.close()
