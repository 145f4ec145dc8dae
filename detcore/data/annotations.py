"""Objects of a split as columns: Arrow arrays on disk and in memory, numpy views for reading.

No Python object per annotation is kept: COCO's 860,000 training objects are a dozen arrays. Values are those of the
source, bit for bit: boxes and areas are float64, and a run-length mask stays beside the rings that training uses for
it.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from detcore.data.columns import STEPS_PER_PIXEL, booleans, pixels, view
from detcore.ops import native

RINGS = pa.large_list(pa.large_list(pa.float64()))
NUMBERS = pa.large_list(pa.float64())

SCHEMA = pa.schema(
    [
        ("sample", pa.int32()),  # row of the image in its split
        ("annotation_id", pa.int64()),
        ("label", pa.int32()),  # 0-based class
        ("bbox", pa.list_(pa.float64(), 4)),  # x, y, width, height in pixels, as the source says
        ("area", pa.float64()),
        ("crowd", pa.bool_()),
        ("polygons", RINGS),  # rings x0, y0, x1, y1, ...; the traced outline where the source has a run-length mask
        ("rle_counts", pa.large_string()),  # the source's compressed run-length mask
        ("rle_runs", pa.large_list(pa.int64())),  # the source's uncompressed run-length mask
        ("rle_size", pa.list_(pa.int32(), 2)),  # its height and width
        ("keypoints", NUMBERS),  # x, y, visibility of each, as COCO has them: x and y count pixels
        ("bbox_rotated", NUMBERS),  # cx, cy, w, h in pixels, degrees counter-clockwise as one sees it
    ]
)
LATER = ("keypoints", "bbox_rotated")
"""Columns that shards of an earlier version may lack; null where an object has none."""
PIXEL_CENTRE = 0.5
"""COCO's keypoints are pixels' numbers; in continuous coordinates a pixel's centre lies half a pixel further."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """The objects of one image, crowd regions included and flagged.

    Attributes:
        boxes_xyxy: (n, 4) float64, pixels, clipped to the image; the upright boxes around rotated ones are not.
        labels: (n,) int64, 0-based classes.
        crowd: (n,) bool.
        areas: (n,) float64, square pixels, as the source says (COCO: of the mask).
        annotation_ids: (n,) int64.
        polygons: the rings, (k, 2) float64, of each object; empty where it has no outline (crowd regions have none).
        keypoints: (n, K, 3) float64, x, y in pixels (a pixel's centre at .5) and visibility; None without keypoints.
        boxes_xywha: (n, 5) float64, cx, cy, w, h in pixels, degrees counter-clockwise; None without rotated boxes.
    """

    boxes_xyxy: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    annotation_ids: NDArray[np.int64]
    polygons: list[list[NDArray[np.float64]]]
    keypoints: NDArray[np.float64] | None = None
    boxes_xywha: NDArray[np.float64] | None = None


FlatObjects = tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]
"""Boxes (n, 4) xyxy, labels (n,), vertices (v, 2), vertices of each ring (r,), and object of each ring (r,)."""


class Annotations:
    """Reads a batch of `SCHEMA`, compacted or not, whose rows are sorted by sample.

    Holds views of the batch, so processes that map one file share its memory; only `starts` and `crowd` are their own.
    """

    def __init__(self, batch: pa.RecordBatch, *, num_samples: int) -> None:
        self.batch = batch
        self.labels: NDArray[np.int32] = view(batch["label"])
        self.ids: NDArray[np.int64] = view(batch["annotation_id"])
        self.boxes_xywh: NDArray[np.float64] = view(batch["bbox"].flatten()).reshape(-1, 4)
        self.areas: NDArray[np.float64] = view(batch["area"])
        self.crowd: NDArray[np.bool_] = booleans(batch["crowd"])
        polygons = batch["polygons"]
        self._object_starts: NDArray[np.int64] = view(polygons.offsets)
        self._ring_starts: NDArray[np.int64] = view(polygons.values.offsets)
        self._values: NDArray[np.float64] | NDArray[np.int32] = view(polygons.values.values)
        self._later = {
            name: batch[name] for name in LATER if name in batch.schema.names and batch[name].null_count < len(batch)
        }
        samples = view(batch["sample"])
        self.starts: NDArray[np.int64] = np.searchsorted(samples, np.arange(num_samples + 1, dtype=np.int32))
        """(num_samples + 1,) first object of each sample."""

    def __len__(self) -> int:
        return len(self.ids)

    def rings(self, rows: slice) -> list[list[NDArray[np.float64]]]:
        """The rings of each of some objects, as (k, 2) in pixels."""
        of_objects = self._object_starts[rows.start : rows.stop + 1]
        starts = self._ring_starts[of_objects[0] : of_objects[-1] + 1]
        vertices = pixels(self._values[starts[0] : starts[-1]]).reshape(-1, 2)
        edges = ((starts - starts[0]) // 2).tolist()
        found = [vertices[first:last] for first, last in pairwise(edges)]
        return [found[first:last] for first, last in pairwise((of_objects - of_objects[0]).tolist())]

    def targets(self, sample: int, *, height: int, width: int, outlines: bool) -> FlatObjects | None:
        """The objects of one image that are no crowds, as training takes them: `objects`, flat, in a tenth of its time.

        Args:
            sample: of the split.
            height, width: of the image.
            outlines: whether to give the rings.

        Returns:
            None where the host's module is not built.
        """
        host = native.host()
        if host is None:
            return None
        rows = slice(*self.starts[sample : sample + 2].tolist())
        of_objects = self._object_starts[rows.start : rows.stop + 1]
        first, last = of_objects[[0, -1]].tolist() if outlines else (0, 0)
        starts = self._ring_starts[first : last + 1]
        values = self._values[starts[0] : starts[-1]]
        found: FlatObjects = host.targets(
            self.boxes_xywh[rows],
            self.labels[rows],
            self.crowd[rows],
            of_objects if outlines else np.zeros_like(of_objects),
            starts,
            values,
            STEPS_PER_PIXEL if values.dtype == np.int32 else 1.0,
            height,
            width,
        )
        return found

    def numbers(self, name: str, rows: slice, length: int) -> NDArray[np.float64]:
        """A column of `LATER` as (rows, length) float64, 0 where there is none."""
        found = np.zeros((rows.stop - rows.start, length))
        column = self._later.get(name)
        if column is not None:
            starts = view(column.offsets)[rows.start : rows.stop + 1]
            found[np.diff(starts) > 0] = view(column.values)[starts[0] : starts[-1]].reshape(-1, length)
        return found

    def labelled_keypoints(self) -> NDArray[np.int64]:
        """(n,) how many keypoints of each object have a visibility above 0."""
        column = self._later.get("keypoints")
        if column is None:
            return np.zeros(len(self), np.int64)
        before: NDArray[np.int64] = np.concatenate([[0], np.cumsum(view(column.values)[2::3] > 0)])
        labelled: NDArray[np.int64] = np.diff(before[view(column.offsets) // 3])
        return labelled

    def objects(
        self, sample: int, *, height: int, width: int, num_keypoints: int = 0, rotated: bool = False
    ) -> Objects:
        """The objects of one image of the given size, upright boxes clipped to it unless they surround rotated ones."""
        rows = slice(*self.starts[sample : sample + 2].tolist())
        boxes = self.boxes_xywh[rows].copy()
        boxes[:, 2:] += boxes[:, :2]
        if not rotated:
            boxes[:, 0::2] = boxes[:, 0::2].clip(0.0, width)
            boxes[:, 1::2] = boxes[:, 1::2].clip(0.0, height)
        keypoints = None
        if num_keypoints:
            keypoints = self.numbers("keypoints", rows, 3 * num_keypoints).reshape(-1, num_keypoints, 3)
            keypoints[..., :2] += np.where(keypoints[..., 2:] > 0, PIXEL_CENTRE, 0.0)
        return Objects(
            boxes_xyxy=boxes,
            labels=self.labels[rows].astype(np.int64),
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            annotation_ids=self.ids[rows],
            # Training takes rings that enclose something.
            polygons=[[ring for ring in rings if len(ring) >= 3] for rings in self.rings(rows)],
            keypoints=keypoints,
            boxes_xywha=self.numbers("bbox_rotated", rows, 5) if rotated else None,
        )

    def most_in_one_sample(self) -> tuple[int, int, int]:
        """The largest numbers of objects, of vertices and of rings that one sample has."""
        if len(self.starts) < 2:
            return 0, 0, 0
        rings = self._object_starts[self.starts]
        vertices = self._ring_starts[rings] // 2
        most = [int(np.diff(starts).max()) for starts in (self.starts, vertices, rings)]
        return most[0], most[1], most[2]

    def record(self, row: int, *, image_id: int) -> dict[str, Any]:
        """One object as COCO's JSON has it, its values exactly the source's; category_id is the class + 1."""
        record: dict[str, Any] = {
            "id": int(self.ids[row]),
            "image_id": image_id,
            "category_id": int(self.labels[row]) + 1,
            "bbox": self.boxes_xywh[row].tolist(),
            "area": float(self.areas[row]),
            "iscrowd": int(self.crowd[row]),
        }
        run_length = (self.batch[name][row].as_py() for name in ("rle_counts", "rle_runs"))
        if (counts := next((value for value in run_length if value is not None), None)) is not None:
            record["segmentation"] = {"size": self.batch["rle_size"][row].as_py(), "counts": counts}
        elif rings := self.rings(slice(row, row + 1))[0]:
            record["segmentation"] = [ring.reshape(-1).tolist() for ring in rings]
        for name, column in self._later.items():
            if (value := column[row].as_py()) is not None:
                record[name] = value
        if "keypoints" in record:
            record["num_keypoints"] = sum(visibility > 0 for visibility in record["keypoints"][2::3])
        return record
