"""Predictions beside the truth, for a few images of the validation split."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from detcore.data import ShardedSplit
from detcore.data.images import read_image
from detcore.inference import Drawing, compare, truth_drawing

SCORE_THRESHOLD = 0.5


class Results(Protocol):
    """Detections as columns, in original pixels; see `detcore.evaluation`."""

    @property
    def image_ids(self) -> NDArray[np.int64]: ...

    @property
    def category_ids(self) -> NDArray[np.int64]: ...

    @property
    def boxes_xyxy(self) -> NDArray[np.float64]: ...

    @property
    def scores(self) -> NDArray[np.float64]: ...

    @property
    def sizes(self) -> NDArray[np.int64]: ...

    @property
    def rles(self) -> Sequence[bytes] | None: ...

    @property
    def keypoints(self) -> NDArray[np.float64] | None: ...

    @property
    def boxes_xywha(self) -> NDArray[np.float64] | None: ...


class Pictures:
    """Draws the same images each time, evenly spread over the split, so that progress shows.

    Args:
        split: what is evaluated on.
        count: number of images, at most.
    """

    def __init__(self, split: ShardedSplit, *, count: int) -> None:
        self._split = split
        self._indices = np.unique(np.linspace(0, len(split) - 1, min(count, len(split))).round().astype(int)).tolist()

    def draw(self, results: Results | None) -> list[Image.Image]:
        """One picture an image, truth on the left, detections from a score of 0.5 on the right. None: no pictures."""
        return [] if results is None else [self._compare(index, results) for index in self._indices]

    def _compare(self, index: int, results: Results) -> Image.Image:
        split = self._split
        truth = truth_drawing(split.objects(index), split.categories)
        prediction = prediction_drawing(results, int(split.image_ids[index]), split.categories)
        if split.keypoints is not None:
            lines = split.keypoints.skeleton
            truth, prediction = replace(truth, skeleton=lines), replace(prediction, skeleton=lines)
        return compare(read_image(split.read(index))[0], truth, prediction)


def prediction_drawing(results: Results, image_id: int, categories: Sequence[str]) -> Drawing:
    """What was detected in one image, best first."""
    rows = np.flatnonzero((results.image_ids == image_id) & (results.scores >= SCORE_THRESHOLD))
    labels, scores = results.category_ids[rows] - 1, results.scores[rows]
    masks = None
    if results.rles is not None and len(rows):
        rles = [{"size": results.sizes[row].tolist(), "counts": results.rles[row]} for row in rows.tolist()]
        masks = coco_mask.decode(rles).astype(bool).transpose(2, 0, 1)
    return Drawing(
        boxes_xyxy=results.boxes_xyxy[rows],
        labels=labels,
        captions=[f"{categories[label]} {score:.2f}" for label, score in zip(labels, scores, strict=True)],
        masks=masks,
        keypoints=None if results.keypoints is None else results.keypoints[rows],
        boxes_xywha=None if results.boxes_xywha is None else results.boxes_xywha[rows],
    )
