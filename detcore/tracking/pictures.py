"""Predictions beside the truth, for a few images of the validation split."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from detcore.data import ShardedSplit
from detcore.data.images import read_image
from detcore.inference import Drawing, Regions, compare, truth_drawing

SCORE_THRESHOLD = 0.5
_NOTHING = Drawing(boxes_xyxy=np.zeros((0, 4)), labels=np.zeros(0, np.int64), captions=())


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


class RegionMap(Protocol):
    """The classes of an image's pixels; see `detcore.evaluation.RegionMap`."""

    @property
    def ids(self) -> NDArray[np.int32]: ...

    @property
    def classes(self) -> Mapping[int, int]: ...


class Pictured(Protocol):
    """What is drawn of an evaluation."""

    @property
    def results(self) -> Results | None: ...

    @property
    def maps(self) -> Mapping[int, tuple[RegionMap, RegionMap]]: ...


class Pictures:
    """Draws the same images each time, evenly spread over the split, so that progress shows.

    Args:
        split: what is evaluated on.
        count: number of images, at most.
    """

    def __init__(self, split: ShardedSplit, *, count: int) -> None:
        self._split = split
        self._indices = split.spread(count)

    def draw(self, evaluation: Pictured) -> list[Image.Image]:
        """One picture an image, truth on the left, on the right maps and detections from a score of 0.5."""
        return [self._compare(index, evaluation) for index in self._indices]

    def _compare(self, index: int, evaluation: Pictured) -> Image.Image:
        split, image_id = self._split, int(self._split.image_ids[index])
        truth = prediction = _NOTHING
        if evaluation.results is not None:
            truth = truth_drawing(split.objects(index), split.categories)
            prediction = prediction_drawing(evaluation.results, image_id, split.categories)
        if image_id in evaluation.maps:
            true, predicted = (self._regions(regions) for regions in evaluation.maps[image_id])
            truth, prediction = replace(truth, regions=true), replace(prediction, regions=predicted)
        if split.keypoints is not None:
            lines = split.keypoints.skeleton
            truth, prediction = replace(truth, skeleton=lines), replace(prediction, skeleton=lines)
        return compare(read_image(split.read(index))[0], truth, prediction)

    def _regions(self, regions: RegionMap) -> Regions:
        names = {number: self._split.semantic_classes[label] for number, label in regions.classes.items()}
        return Regions(ids=regions.ids, labels=regions.classes, names=names)


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
