"""COCO's average precision of rotated boxes."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detcore.evaluation.coco import Accumulated
from detcore.evaluation.matching import Columns, accumulate_matches
from detcore.evaluation.results import Results
from detcore.ops import box_iou_rotated


def accumulate_rotated(ground_truth: dict[str, Any], results: Results, *, judged: bool = False) -> Accumulated:
    """COCO's arrays with the IoU of rotated boxes: `bbox_rotated` of the ground truth, `boxes_xywha` of the results.

    An object's area is its annotation's, else that of its box. With a crowd region counts the share of a detection
    that lies in it. `judged` also gives which detections are true at IoU 0.5.
    """
    assert results.boxes_xywha is not None
    boxes, annotations = results.boxes_xywha, ground_truth["annotations"]
    truth = np.array([upright_as_rotated(a) for a in annotations], dtype=np.float64).reshape(-1, 5)
    crowd = np.array([bool(a.get("iscrowd")) for a in annotations], dtype=np.bool_)
    areas, own_areas = _area(boxes), _area(truth)

    def overlap(rows: NDArray[np.int64], objects: NDArray[np.int64]) -> NDArray[np.float64]:
        a, b = torch.from_numpy(boxes[rows]), torch.from_numpy(truth[objects])
        iou: NDArray[np.float64] = box_iou_rotated(a, b).numpy()
        both = areas[rows][:, None] + own_areas[objects]
        inside = iou * both / (1 + iou) / np.maximum(areas[rows][:, None], np.finfo(np.float64).tiny)
        return np.where(crowd[objects], inside, iou)

    return accumulate_matches(
        Columns(image_ids=results.image_ids, category_ids=results.category_ids, areas=areas),
        results.scores,
        Columns(
            image_ids=np.array([a["image_id"] for a in annotations], dtype=np.int64),
            category_ids=np.array([a["category_id"] for a in annotations], dtype=np.int64),
            areas=np.array([a.get("area", own) for a, own in zip(annotations, own_areas, strict=True)]),
        ),
        crowd,
        overlap=overlap,
        category_ids=sorted(c["id"] for c in ground_truth["categories"]),
        judged=judged,
    )


def upright_as_rotated(annotation: dict[str, Any]) -> list[float]:
    """An annotation's rotated box (cx, cy, w, h, degrees), else its upright one as such."""
    if annotation.get("bbox_rotated"):
        box: list[float] = annotation["bbox_rotated"]
        return box
    x, y, width, height = annotation["bbox"]  # crowd regions need not have a rotated one
    return [x + width / 2, y + height / 2, width, height, 0.0]


def _area(boxes_xywha: NDArray[np.float64]) -> NDArray[np.float64]:
    return boxes_xywha[:, 2] * boxes_xywha[:, 3]
