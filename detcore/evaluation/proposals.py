"""Recall of class-agnostic proposals."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detcore.evaluation.coco import AREAS, IOU_THRESHOLDS
from detcore.evaluation.results import Results
from detcore.structures.boxes import iou

LIMITS = (100, 1000)


def proposal_recall(ground_truth: dict[str, Any], results: Results) -> dict[str, float]:
    """Average recall (Hosang et al., arXiv:1502.05082) over IoU 0.5:0.05:0.95, of the best 100 and 1000 of each image.

    Classes do not matter. In each image proposals and objects are paired one to one, the highest IoU first; recall is
    the share of objects whose pair reaches the threshold. Crowd regions do not count.

    Returns:
        proposal_ar100, proposal_ar1000 and, of objects of a size, proposal_ar100_small and so on; in percent. A size
        of which there is no object is left out.
    """
    overlaps: dict[tuple[int, str], list[NDArray[np.float64]]] = {(n, area): [] for n in LIMITS for area in AREAS}
    objects = [a for a in ground_truth["annotations"] if not a.get("iscrowd")]
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in ground_truth["images"]}
    for annotation in objects:
        by_image[annotation["image_id"]].append(annotation)
    starts = np.searchsorted(results.image_ids, [*by_image])  # rows come by image
    ends = np.searchsorted(results.image_ids, [*by_image], side="right")
    for start, end, own in zip(starts, ends, by_image.values(), strict=True):
        if not own:
            continue
        boxes = np.array([a["bbox"] for a in own], dtype=np.float64)
        boxes[:, 2:] += boxes[:, :2]
        areas = np.array([a["area"] for a in own])
        table = iou(torch.from_numpy(results.boxes_xyxy[start:end]), torch.from_numpy(boxes)).numpy()
        for (limit, area), values in overlaps.items():
            low, high = AREAS[area]
            values.append(_paired(table[:limit, (areas >= low) & (areas <= high)]))
    recalls = {key: _average_recall(np.concatenate(values or [np.zeros(0)])) for key, values in overlaps.items()}
    return {
        f"proposal_ar{limit}" + ("" if area == "all" else f"_{area}"): 100.0 * value
        for (limit, area), value in recalls.items()
        if value is not None
    }


def _paired(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """The IoU of each object with its proposal, 0 where none is left: (P, G) -> (G,), the highest first."""
    table = table.copy()
    overlaps = np.zeros(table.shape[1])
    for index in range(min(table.shape)):
        proposal, target = np.unravel_index(table.argmax(), table.shape)
        overlaps[index] = table[proposal, target]
        table[proposal, :] = table[:, target] = -1.0
    return overlaps


def _average_recall(overlaps: NDArray[np.float64]) -> float | None:
    return float(np.mean([(overlaps >= t).mean() for t in IOU_THRESHOLDS])) if overlaps.size else None
