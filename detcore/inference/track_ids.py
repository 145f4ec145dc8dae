"""The same number for the same object in all frames of a video, by the overlap of its boxes alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from detcore.inference.overlaps import pairwise_iou
from detcore.inference.prediction import Prediction
from detcore.inference.sources import Frame


@dataclass
class _Track:
    number: int
    label: int
    box_xyxy: NDArray[np.float64]
    last_seen: int


class BoxTracker:
    """Detections to tracks: of each class, the pairs whose IoUs add up to most (Kuhn 1955, the Hungarian method).

    Args:
        least_iou: boxes of one object in frames that follow each other overlap as much.
        patience: frames that an object may be missing for and keep its number.
    """

    def __init__(self, *, least_iou: float = 0.3, patience: int = 15) -> None:
        self._least_iou, self._patience = least_iou, patience
        self._tracks: list[_Track] = []
        self._given = self._frame = 0

    def update(self, boxes_xyxy: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) numbers, from 1, of the objects (n, 4), (n,) of the next frame."""
        self._frame += 1
        self._tracks = [track for track in self._tracks if self._frame - track.last_seen <= self._patience + 1]
        numbers = np.zeros(len(labels), np.int64)
        if self._tracks:
            iou = pairwise_iou(np.stack([track.box_xyxy for track in self._tracks]), boxes_xyxy)
            iou[np.array([track.label for track in self._tracks])[:, None] != labels] = 0.0
            self._match(iou, boxes_xyxy, numbers)
        for index in np.flatnonzero(numbers == 0).tolist():
            self._given += 1
            numbers[index] = self._given
            self._tracks.append(_Track(self._given, int(labels[index]), boxes_xyxy[index], self._frame))
        return numbers

    def _match(self, iou: NDArray[np.float64], boxes_xyxy: NDArray[np.float64], numbers: NDArray[np.int64]) -> None:
        enough = iou >= self._least_iou
        for row, column in zip(*linear_sum_assignment(np.where(enough, iou, 0.0), maximize=True), strict=True):
            if enough[row, column]:
                track = self._tracks[row]
                track.box_xyxy, track.last_seen = boxes_xyxy[column], self._frame
                numbers[column] = track.number


def with_track_ids(predictions: Iterable[Prediction]) -> Iterator[Prediction]:
    """Frames of a video get `track_ids`; other images stay as they are."""
    video, tracker = None, BoxTracker()
    for prediction in predictions:
        if not isinstance(prediction.source, Frame):
            video = None
            yield prediction
            continue
        if prediction.source.video != video or prediction.source.number == 0:
            video, tracker = prediction.source.video, BoxTracker()
        yield replace(prediction, track_ids=tracker.update(prediction.boxes_xyxy, prediction.labels))
