"""COCO matching: hotcoco where it is installed, pycocotools in its stead.

The only importer of hotcoco. Both follow the COCO evaluation (Lin et al., "Microsoft COCO", ECCV 2014, and its
published evaluation code) and give the same arrays to the last digit, which the tests hold.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

try:
    import hotcoco
except ImportError:
    hotcoco = None  # type: ignore[assignment]

IouType = Literal["bbox", "segm"]


@dataclass(frozen=True, kw_only=True)
class Results:
    """Detections of a data set as columns, N rows, in original pixels.

    Attributes:
        image_ids, category_ids: (N,) int64, ids of the ground truth's images and categories.
        boxes_xyxy: (N, 4) float64.
        scores: (N,) float64.
        sizes: (N, 2) int64, height and width of the row's image.
        rles: COCO's compressed run lengths, N entries, or None where there are no masks.
    """

    image_ids: NDArray[np.int64]
    category_ids: NDArray[np.int64]
    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    sizes: NDArray[np.int64]
    rles: Sequence[bytes] | None = None

    def boxes_xywh(self) -> NDArray[np.float64]:
        low, high = self.boxes_xyxy[:, :2], self.boxes_xyxy[:, 2:]
        return np.concatenate((low, high - low), axis=1)

    def segmentation(self, row: int) -> dict[str, Any]:
        """COCO's {size, counts} of a row."""
        assert self.rles is not None
        return {"size": self.sizes[row].tolist(), "counts": self.rles[row]}

    def box_results(self) -> list[dict[str, Any]]:
        """The `results` list of COCO's box task."""
        rows = zip(self.image_ids, self.category_ids, self.boxes_xywh(), self.scores, strict=True)
        return [
            {"image_id": int(image), "category_id": int(category), "bbox": box.tolist(), "score": float(score)}
            for image, category, box, score in rows
        ]

    def mask_results(self) -> list[dict[str, Any]]:
        """The `results` list of COCO's mask task. Without boxes, as then the mask's area decides what is small."""
        rows = zip(self.image_ids, self.category_ids, self.scores, strict=True)
        return [
            {
                "image_id": int(image),
                "category_id": int(category),
                "segmentation": self.segmentation(row),
                "score": float(score),
            }
            for row, (image, category, score) in enumerate(rows)
        ]


@dataclass(frozen=True)
class Accumulated:
    """COCO's arrays; -1 where there is nothing to find.

    Attributes:
        precision: (10 IoU thresholds .50:.05:.95, 101 recalls 0:.01:1, classes, 4 areas all/small/medium/large,
            3 limits of 1/10/100 detections) float64.
        recall: (10, classes, 4, 3) float64, the highest recall reached.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def accumulate(ground_truth: dict[str, Any], results: Results, iou_type: IouType) -> Accumulated:
    """Matches `results` with a COCO ground truth, which is left unchanged.

    Classes come in the order of their ids, as in COCO.
    """
    backend = accumulate_pycocotools if hotcoco is None else accumulate_hotcoco
    return backend(ground_truth, results, iou_type)


def accumulate_hotcoco(ground_truth: dict[str, Any], results: Results, iou_type: IouType) -> Accumulated:
    truth = hotcoco.COCO(ground_truth)
    if iou_type == "segm":
        found = truth.load_res(results.mask_results())
    else:  # columns: no dictionary per detection
        columns = (
            results.image_ids[:, None],
            results.boxes_xywh(),
            results.scores[:, None],
            results.category_ids[:, None],
        )
        found = truth.load_res(np.concatenate(columns, axis=1, dtype=np.float64))
    evaluation = hotcoco.COCOeval(truth, found, iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = evaluation.eval
    assert arrays is not None
    return Accumulated(arrays["precision"], arrays["recall"])


def accumulate_pycocotools(ground_truth: dict[str, Any], results: Results, iou_type: IouType) -> Accumulated:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth = COCO()
        truth.dataset = {**ground_truth, "annotations": _for_pycocotools(ground_truth["annotations"])}
        truth.createIndex()
        found_list = results.mask_results() if iou_type == "segm" else results.box_results()
        if found_list:
            found = truth.loadRes(found_list)
        else:  # loadRes looks at the first result
            found = COCO()
            found.dataset = {**ground_truth, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
    return Accumulated(evaluation.eval["precision"], evaluation.eval["recall"])


def _for_pycocotools(annotations: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copies, for it writes into annotations, with what hotcoco does not need.

    Ids count from 1: pycocotools takes a match with annotation 0 for no match. Where there is no mask, the box is it.
    """
    copies = []
    for number, annotation in enumerate(annotations, start=1):
        x, y, width, height = annotation["bbox"]
        outline = [[x, y, x + width, y, x + width, y + height, x, y + height]]
        copies.append({"segmentation": outline, **annotation, "id": number})
    return copies
