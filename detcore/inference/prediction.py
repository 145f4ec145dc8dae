"""What a detector saw in one image."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from detcore.inference.draw import Drawing, draw
from detcore.inference.regions import Regions
from detcore.inference.sources import Frame, ImageSource, Url, read_rgb
from detcore.ops import PanopticSegment

if TYPE_CHECKING:
    import pandas
    import supervision

    from detcore.inference.writing import Format

_SMALLEST_SHARE = 0.005
"""Of an image's pixels; smaller regions are not told in words."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """Detections of one image, best first, in pixels of the image as it was given.

    Attributes:
        source: the image.
        height, width: its size.
        boxes_xyxy: (n, 4) float64.
        scores: (n,) float32 in [0, 1].
        labels: (n,) int64, 0-based classes.
        class_names: n names.
        categories: names of all classes that the detector knows.
        masks: (n, height, width) bool, or None where the detector predicts none; so with all that follows.
        mask_rles: n of COCO's compressed run lengths, in place of `masks` where those alone were asked for.
        keypoints: (n, K, 3) float64, x, y and a score.
        keypoint_names, skeleton: K names, and the pairs of keypoints that a line is drawn between.
        boxes_xywha: (n, 5) float64, (cx, cy, w, h, angle in degrees, counter-clockwise as one sees it).
        semantic: (height, width) integer, the class of each pixel.
        semantic_names: by 0-based class of pixels.
        panoptic: (height, width) int32, the segment of each pixel, 0 where there is none.
        segments: what `panoptic` numbers.
        track_ids: (n,) int64, from 1: the same object has the same number in all frames of a video.
    """

    source: ImageSource
    height: int
    width: int
    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    categories: tuple[str, ...] = ()
    masks: NDArray[np.bool_] | None = None
    mask_rles: tuple[dict[str, Any], ...] | None = None
    keypoints: NDArray[np.float64] | None = None
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    boxes_xywha: NDArray[np.float64] | None = None
    semantic: NDArray[np.integer] | None = None
    semantic_names: tuple[str, ...] = ()
    panoptic: NDArray[np.int32] | None = None
    segments: tuple[PanopticSegment, ...] = ()
    track_ids: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def name(self) -> str | None:
        """The file, the address or the frame of a video that was read, if it was one."""
        return str(self.source) if isinstance(self.source, Path | Url | Frame) else None

    @property
    def file_name(self) -> str | None:
        """A name for a file of the image; None of one from memory."""
        return self.source.name if isinstance(self.source, Path | Url | Frame) else None

    def drawing(self) -> Drawing:
        """All that was found, with captions such as 'cat 0.93'."""
        regions = None
        if self.panoptic is not None:
            stuff = [segment for segment in self.segments if not segment.is_thing]
            regions = Regions(
                ids=np.where(np.isin(self.panoptic, [segment.id for segment in stuff]), self.panoptic, 0),
                labels={segment.id: segment.category for segment in stuff},
                names={segment.id: self.semantic_name(segment.category) for segment in stuff},
            )
        elif self.semantic is not None:
            classes = np.unique(self.semantic).tolist()
            regions = Regions(
                ids=self.semantic.astype(np.int32) + 1,
                labels={label + 1: label for label in classes},
                names={label + 1: self.semantic_name(label) for label in classes},
            )
        return Drawing(
            boxes_xyxy=self.boxes_xyxy,
            labels=self.labels,
            captions=self._captions(),
            colours=self.labels if self.track_ids is None else self.track_ids - 1,
            masks=self.masks,
            keypoints=self.keypoints,
            skeleton=self.skeleton,
            boxes_xywha=self.boxes_xywha,
            regions=regions,
        )

    def _captions(self) -> list[str]:
        captions = [f"{name} {score:.2f}" for name, score in zip(self.class_names, self.scores, strict=True)]
        if self.track_ids is None:
            return captions
        return [f"#{number} {text}" for number, text in zip(self.track_ids.tolist(), captions, strict=True)]

    def semantic_name(self, label: int) -> str:
        """The name of a class of pixels, or its number where the model has no names for them."""
        return self.semantic_names[label] if self.semantic_names else str(label)

    def in_words(self) -> str:
        """What was found, most first, and how much of the image is stuff: '2 × cat, 1 × dog; grass 61%, sky 12%'."""
        counts = Counter(self.class_names).most_common()
        parts = [", ".join(f"{count} × {name}" for name, count in counts)]
        regions = self.drawing().regions
        if regions is not None:
            numbers, sizes = np.unique(regions.ids, return_counts=True)
            shares = zip(sizes / regions.ids.size, numbers.tolist(), strict=True)
            named = [(share, regions.names[number]) for share, number in shares if number and share >= _SMALLEST_SHARE]
            parts.append(", ".join(f"{name} {share:.0%}" for share, name in sorted(named, reverse=True)))
        return "; ".join(filter(None, parts)) or "nothing"

    def draw(self) -> Image.Image:
        """The image with what was found on it; a small image is enlarged. A file is read again."""
        return draw(read_rgb(self.source), self.drawing())

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; masks as COCO's compressed run lengths."""
        masks = self._rles()
        detections = []
        for index, class_name in enumerate(self.class_names):
            row: dict[str, Any] = {
                "class_name": class_name,
                "label": int(self.labels[index]),
                "score": float(self.scores[index]),
                "box_xyxy": self.boxes_xyxy[index].tolist(),
            }
            if self.track_ids is not None:
                row["track_id"] = int(self.track_ids[index])
            if masks is not None:
                row["mask"] = masks[index]
            if self.boxes_xywha is not None:
                row["box_xywha"] = self.boxes_xywha[index].tolist()
            if self.keypoints is not None:
                row["keypoints"] = self.keypoints[index].tolist()
            detections.append(row)
        values: dict[str, Any] = {
            "image": self.name,
            "height": self.height,
            "width": self.width,
            "detections": detections,
        }
        if self.keypoints is not None:
            values["keypoint_names"] = list(self.keypoint_names)
        if self.semantic is not None:
            classes = np.unique(self.semantic).tolist()
            rles = _encoded([self.semantic == label for label in classes])
            values["semantic"] = [
                {"class_name": self.semantic_name(label), "label": label, "mask": rle}
                for label, rle in zip(classes, rles, strict=True)
            ]
        if self.panoptic is not None:
            rles = _encoded([self.panoptic == segment.id for segment in self.segments])
            values["panoptic"] = [
                {**asdict(segment), "mask": rle} for segment, rle in zip(self.segments, rles, strict=True)
            ]
        return values

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO's results list; `category_id` is the label + 1, as in data sets that detcore prepares."""
        masks = self._rles()
        rows = []
        for index, (x1, y1, x2, y2) in enumerate(self.boxes_xyxy.tolist()):
            row: dict[str, Any] = {
                "image_id": image_id,
                "category_id": int(self.labels[index]) + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": float(self.scores[index]),
            }
            if masks is not None:
                row["segmentation"] = masks[index]
            if self.boxes_xywha is not None:
                row["bbox_rotated"] = self.boxes_xywha[index].tolist()
            if self.keypoints is not None:  # COCO numbers pixels, whose centres lie half a pixel further
                row["keypoints"] = (self.keypoints[index] - (0.5, 0.5, 0.0)).ravel().tolist()
            rows.append(row)
        return rows

    def to_numpy(self) -> NDArray[np.float64]:
        """(n, 6): x1, y1, x2, y2, score, label."""
        return np.column_stack([self.boxes_xyxy.reshape(-1, 4), self.scores, self.labels]).astype(np.float64)

    def to_pandas(self) -> "pandas.DataFrame":
        """A row a detection: image, height, width, label, class_name, score, x1, y1, x2, y2; then track_id,
        mask_counts (COCO's run lengths), cx, cy, w, h, angle_deg, and x, y, score of each keypoint, where there are.

        Raises:
            ValueError: pandas is not installed.
        """
        from detcore.inference.predictions import Predictions

        return Predictions([self]).to_pandas()

    def to_yolo(self) -> list[str]:
        """YOLO's lines: class and box, class and outline, or class, box and keypoints; no scores."""
        from detcore.inference.writing.yolo import yolo_lines

        return list(yolo_lines(self))

    def to_supervision(self) -> "supervision.Detections":
        """As roboflow/supervision has them; corners of rotated boxes ('xyxyxyxy') and 'keypoints' are in `data`.

        Raises:
            ValueError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise ValueError("to_supervision needs supervision: pip install supervision") from error
        from detcore.inference.writing.yolo import corners_of

        data: dict[str, Any] = {"class_name": np.array(self.class_names, dtype=str)}
        if self.boxes_xywha is not None:
            data["xyxyxyxy"] = corners_of(self.boxes_xywha)
        if self.keypoints is not None:
            data["keypoints"] = self.keypoints
        return supervision.Detections(
            xyxy=self.boxes_xyxy.reshape(-1, 4).astype(np.float32),
            mask=self.masks,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            tracker_id=self.track_ids,
            data=data,
        )

    def save(self, folder: Path | str, format: "Format") -> None:
        """Writes it as a data set of one image; see `Predictions.save`."""
        from detcore.inference.predictions import Predictions

        Predictions([self]).save(folder, format)

    def _rles(self) -> Sequence[dict[str, Any]] | None:
        if self.mask_rles is not None:
            return self.mask_rles
        return None if self.masks is None else _encoded(self.masks)


def _encoded(masks: Iterable[NDArray[np.bool_]]) -> list[dict[str, Any]]:
    rles = [coco_mask.encode(np.asfortranarray(mask.view(np.uint8))) for mask in masks]
    return [{"size": [int(side) for side in rle["size"]], "counts": rle["counts"].decode("ascii")} for rle in rles]
