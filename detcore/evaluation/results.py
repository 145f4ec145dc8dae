"""Detections as plain arrays: of one image, and of a data set."""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import chain, compress, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class ImageDetections:
    """One image's detections in original pixels: numpy and bytes, to be carried between ranks by any means.

    Attributes:
        image_id: the ground truth's id.
        boxes_xyxy: (n, 4) float64.
        scores: (n,) float64.
        labels: (n,) int64, 0-based classes.
        rles: n compressed COCO run lengths, or None without masks.
        keypoints: (n, K, 3) float64, x, y and a score, or None.
        boxes_xywha: (n, 5) float64, (cx, cy, w, h, angle in degrees, counter-clockwise as one sees it), or None.
    """

    image_id: int
    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    rles: tuple[bytes, ...] | None = None
    keypoints: NDArray[np.float64] | None = None
    boxes_xywha: NDArray[np.float64] | None = None

    def sorted(self) -> "ImageDetections":
        """By falling score; equal scores by box and label: an order that knows nothing of where they come from."""
        x1, y1, x2, y2 = self.boxes_xyxy.T
        turned = () if self.boxes_xywha is None else tuple(self.boxes_xywha.T)  # of upright boxes two are alike
        order = np.lexsort((*turned, self.labels, y2, x2, y1, x1, -self.scores))
        return ImageDetections(
            image_id=self.image_id,
            boxes_xyxy=self.boxes_xyxy[order],
            scores=self.scores[order],
            labels=self.labels[order],
            rles=None if self.rles is None else tuple(self.rles[i] for i in order),
            keypoints=None if self.keypoints is None else self.keypoints[order],
            boxes_xywha=None if self.boxes_xywha is None else self.boxes_xywha[order],
        )


@dataclass(frozen=True, kw_only=True)
class Results:
    """Detections of a data set as columns, N rows, in original pixels.

    Attributes:
        image_ids, category_ids: (N,) int64, ids of the ground truth's images and categories.
        boxes_xyxy: (N, 4) float64.
        scores: (N,) float64.
        sizes: (N, 2) int64, height and width of the row's image.
        rles: COCO's compressed run lengths, N entries, or None where there are no masks.
        keypoints: (N, K, 3) float64, x, y and a score, or None.
        boxes_xywha: (N, 5) float64, or None.
    """

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    sizes: NDArray[np.int64]
    rles: Sequence[bytes] | None = None
    keypoints: NDArray[np.float64] | None = None
    boxes_xywha: NDArray[np.float64] | None = None

    def where(self, kept: NDArray[np.bool_]) -> "Results":
        """The rows (N,) that are kept."""
        columns: dict[str, Any] = {
            field.name: None if (column := getattr(self, field.name)) is None else column[kept]
            for field in fields(self)
            if field.name != "rles"
        }
        return Results(**columns, rles=None if self.rles is None else list(compress(self.rles, kept)))

    def rows_of(self, rows: NDArray[np.int64], *, category_ids: NDArray[np.int64]) -> "Results":
        """These rows (n,), which may repeat, under other categories (n,)."""
        columns: dict[str, Any] = {
            field.name: None if (column := getattr(self, field.name)) is None else column[rows]
            for field in fields(self)
            if field.name not in ("rles", "category_ids")
        }
        rles = None if self.rles is None else [self.rles[row] for row in rows.tolist()]
        return Results(**columns, category_ids=category_ids, rles=rles)

    def boxes_xywh(self) -> NDArray[np.float64]:
        low, high = self.boxes_xyxy[:, :2], self.boxes_xyxy[:, 2:]
        return np.concatenate((low, high - low), axis=1)

    def segmentations(self) -> list[dict[str, Any]]:
        """COCO's {size, counts} of each row."""
        assert self.rles is not None
        # Neighbours of one size share the list of it: for many masks, making lists takes longer than all else here.
        first = np.flatnonzero(np.diff(self.sizes, axis=0, prepend=-1).any(axis=1))
        counts = np.diff(first, append=len(self.sizes))
        sizes = chain.from_iterable(map(repeat, self.sizes[first].tolist(), counts.tolist()))
        with _cycles_unsought():
            return [{"size": size, "counts": rle} for size, rle in zip(sizes, self.rles, strict=True)]

    def box_results(self) -> list[dict[str, Any]]:
        """The `results` list of COCO's box task."""
        boxes = self.boxes_xywh().tolist()
        return [{**row, "bbox": box} for row, box in zip(self._rows(), boxes, strict=True)]

    def mask_results(self) -> list[dict[str, Any]]:
        """The `results` list of COCO's mask task. Without boxes, as then the mask's area decides what is small."""
        return [{**row, "segmentation": own} for row, own in zip(self._rows(), self.segmentations(), strict=True)]

    def keypoint_results(self) -> list[dict[str, Any]]:
        """The `results` list of COCO's keypoint task."""
        points = self._coco_keypoints().tolist()
        return [{**row, "keypoints": own} for row, own in zip(self._rows(), points, strict=True)]

    def _coco_keypoints(self) -> NDArray[np.float64]:
        """(N, 3 K): COCO's x and y number pixels, whose centres lie half a pixel further."""
        assert self.keypoints is not None
        return (self.keypoints - (0.5, 0.5, 0.0)).reshape(len(self.scores), 3 * self.keypoints.shape[1])

    def rows(self) -> list[dict[str, Any]]:
        """All that there is of each detection, as COCO's results, run lengths as text."""
        rows = self.box_results()
        keypoints = None if self.keypoints is None else self._coco_keypoints()
        for index, row in enumerate(rows):
            if self.rles is not None:
                row["segmentation"] = {"size": self.sizes[index].tolist(), "counts": self.rles[index].decode("ascii")}
            if keypoints is not None:
                row["keypoints"] = keypoints[index].tolist()
            if self.boxes_xywha is not None:
                row["bbox_rotated"] = self.boxes_xywha[index].tolist()
        return rows

    def _rows(self) -> list[dict[str, Any]]:
        columns = zip(self.image_ids.tolist(), self.category_ids.tolist(), self.scores.tolist(), strict=True)
        with _cycles_unsought():
            return [{"image_id": image, "category_id": category, "score": score} for image, category, score in columns]


@contextmanager
def _cycles_unsought() -> Iterator[None]:
    """For making very many dictionaries: Python would search all of them for cycles again and again meanwhile.

    That is six sevenths of the time; there are no cycles in them.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
