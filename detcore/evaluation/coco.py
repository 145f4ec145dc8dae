"""COCO matching: hotcoco where it is installed, pycocotools in its stead.

The only importer of hotcoco in this room. Both follow the COCO evaluation (Lin et al., "Microsoft COCO", ECCV 2014, and
its published evaluation code) and give the same arrays to the last digit, which the tests hold.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.results import Results

try:
    import hotcoco
except ImportError:
    hotcoco = None  # type: ignore[assignment]

IouType = Literal["bbox", "segm", "keypoints"]

AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's ranges of an object's area in square pixels, both ends included."""
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Accumulated:
    """COCO's arrays; -1 where there is nothing to find.

    Attributes:
        precision: (10 IoU thresholds .50:.05:.95, 101 recalls 0:.01:1, classes, areas, limits of detections) float64.
        recall: (10, classes, areas, limits), the highest recall reached.
        areas: names of the areas: all, small, medium, large; keypoints have no small ones.
        limits: detections of a class in an image: 1, 10, 100; for keypoints 20.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    areas: tuple[str, ...] = tuple(AREAS)
    limits: tuple[int, ...] = (1, 10, 100)


def accumulate(
    ground_truth: dict[str, Any], results: Results, iou_type: IouType, *, sigmas: Sequence[float] | None = None
) -> Accumulated:
    """Matches `results` with a COCO ground truth, which is left unchanged.

    Classes come in the order of their ids, as in COCO.

    Args:
        sigmas: of each keypoint, for its object similarity; None takes those of COCO's 17.
    """
    backend = accumulate_pycocotools if hotcoco is None else accumulate_hotcoco
    return backend(ground_truth, results, iou_type, sigmas=sigmas)


def accumulate_hotcoco(
    ground_truth: dict[str, Any], results: Results, iou_type: IouType, *, sigmas: Sequence[float] | None = None
) -> Accumulated:
    truth = hotcoco.COCO(ground_truth)
    if iou_type == "bbox":  # columns: no dictionary per detection
        columns = (
            results.image_ids[:, None],
            results.boxes_xywh(),
            results.scores[:, None],
            results.category_ids[:, None],
        )
        found = truth.load_res(np.concatenate(columns, axis=1, dtype=np.float64))
    else:
        found = truth.load_res(_rows(results, iou_type))
    return _accumulated(hotcoco.COCOeval(truth, found, iou_type), iou_type, sigmas)


def accumulate_pycocotools(
    ground_truth: dict[str, Any], results: Results, iou_type: IouType, *, sigmas: Sequence[float] | None = None
) -> Accumulated:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth = COCO()
        truth.dataset = {**ground_truth, "annotations": as_pycocotools_takes(ground_truth["annotations"], iou_type)}
        truth.createIndex()
        rows = _rows(results, iou_type)
        if rows:
            found = truth.loadRes(rows)
        else:  # loadRes looks at the first result
            found = COCO()
            found.dataset = {**ground_truth, "annotations": []}
            found.createIndex()
        return _accumulated(COCOeval(truth, found, iou_type), iou_type, sigmas)


def _accumulated(evaluation: Any, iou_type: IouType, sigmas: Sequence[float] | None) -> Accumulated:
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=np.float64)
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = evaluation.eval
    if iou_type == "keypoints":
        return Accumulated(arrays["precision"], arrays["recall"], areas=("all", "medium", "large"), limits=(20,))
    return Accumulated(arrays["precision"], arrays["recall"])


def _rows(results: Results, iou_type: IouType) -> list[dict[str, Any]]:
    match iou_type:
        case "bbox":
            return results.box_results()
        case "segm":
            return results.mask_results()
        case "keypoints":
            return results.keypoint_results()


def as_pycocotools_takes(annotations: Sequence[dict[str, Any]], iou_type: IouType) -> list[dict[str, Any]]:
    """Copies, for it writes into annotations, with what hotcoco does not need.

    Ids count from 1: pycocotools takes a match with annotation 0 for no match. Where there is no mask, the box is it.
    Where keypoints are compared, what has none is there to be ignored.
    """
    copies = []
    for number, annotation in enumerate(annotations, start=1):
        x, y, width, height = annotation["bbox"]
        copy = {"segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]], **annotation}
        if iou_type == "keypoints":
            copy = {"num_keypoints": 0, "keypoints": [], **copy}
        copies.append({**copy, "id": number})
    return copies
