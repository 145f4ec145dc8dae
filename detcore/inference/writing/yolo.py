"""Predictions as a YOLO data set: a text file an image, coordinates as fractions of it (docs.ultralytics.com)."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from detcore.data.outlines import trace_outline
from detcore.inference.prediction import Prediction
from detcore.inference.writing.writer import Writer, seen_keypoints


class YoloWriter(Writer):
    """data.yaml and labels/: masks and rotated boxes become outlines, keypoints follow their box. Scores are left out.

    An outline says all regions of a mask, joined by lines without width, but no holes.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        self._labels = folder / "labels"
        if self._labels.exists() and any(self._labels.iterdir()):
            raise ValueError(
                f"{self._labels}: holds labels already, which would be mixed with these; name another folder"
            )
        self._labels.mkdir(exist_ok=True)
        self._stems: dict[str, str] = {}
        config: dict[str, Any] = {"names": dict(enumerate(self.categories))}
        if self.keypoint_names:
            config["kpt_shape"] = [len(self.keypoint_names), 3]
            config["kpt_names"] = {label: list(self.keypoint_names) for label in config["names"]}
        (folder / "data.yaml").write_text(yaml.dump(config, sort_keys=False, allow_unicode=True, Dumper=_Plain))

    def add(self, prediction: Prediction) -> None:
        name = self.image_name(prediction)
        stem = PurePosixPath(name).with_suffix("").as_posix()
        if other := self._stems.get(stem):
            raise ValueError(f"{name}: YOLO has one file of labels for it and for {other}; rename one of the images")
        self._stems[stem] = name
        path = self._labels / f"{stem}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in yolo_lines(prediction)))

    def close(self) -> None:
        """All is written."""


class _Plain(yaml.SafeDumper):
    """Without anchors for what occurs twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def yolo_lines(prediction: Prediction) -> Iterator[str]:
    """A line an object: class and box (centre, size), class and outline, or class, box and keypoints."""
    size = np.array([prediction.width, prediction.height], np.float64)
    rotated = None if prediction.boxes_xywha is None else corners_of(prediction.boxes_xywha)
    for index, label in enumerate(prediction.labels.tolist()):
        low, high = prediction.boxes_xyxy[index, :2], prediction.boxes_xyxy[index, 2:]
        numbers = np.concatenate([(low + high) / 2 / size, (high - low) / size])
        if prediction.keypoints is not None:
            points = np.array(seen_keypoints(prediction, index), np.float64) / (*size, 1.0)
            numbers = np.concatenate([numbers, points.ravel()])
        elif rotated is not None:
            numbers = (rotated[index] / size).ravel()
        elif prediction.masks is not None and (rings := trace_outline(prediction.masks[index])):
            numbers = (joined(rings) / size).ravel()
        yield " ".join([str(label), *(f"{number:.10g}" for number in numbers.tolist())])


def joined(rings: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Rings (k, 2) as one ring that encloses the same: each is reached from the first, and left, by the same line."""
    first, *others = rings
    parts = [first]
    for ring in others:
        parts += [first[:1], ring, ring[:1]]
    return np.concatenate([*parts, first[:1]]) if others else first


def corners_of(boxes_xywha: NDArray[np.float64]) -> NDArray[np.float64]:
    """The corners (n, 4, 2) of rotated boxes (n, 5), around each of them."""
    angle = np.radians(boxes_xywha[:, 4])
    along = np.stack([np.cos(angle), -np.sin(angle)], axis=-1) * boxes_xywha[:, 2:3] / 2
    across = np.stack([np.sin(angle), np.cos(angle)], axis=-1) * boxes_xywha[:, 3:4] / 2
    centre = boxes_xywha[:, :2]
    return np.stack(
        [centre - along - across, centre + along - across, centre + along + across, centre - along + across], axis=1
    )
