"""Average precision of boxes as Pascal VOC measures it (Everingham et al., IJCV 88, 2010, section 4.2)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detcore.evaluation.coco import IOU_THRESHOLDS
from detcore.evaluation.judged import Judged
from detcore.evaluation.results import Results
from detcore.structures.boxes import iou


def judged_as_voc(ground_truth: Mapping[str, Any], results: Results) -> list[Judged]:
    """The detections at each of COCO's IoU thresholds; the first, 0.5, is Pascal VOC's.

    A detection belongs to the object of its class that it overlaps most. If they overlap by the threshold or more, the
    best-scored detection of an object is true and all others of it are false; those of a difficult object, which is a
    crowd region here, do not count. Boxes are continuous: VOC's pixels, whose numbers a box includes, are a pixel wide.

    Returns:
        10 judgements; classes are places in the order of the categories' ids.
    """
    category_ids = np.sort(np.array([c["id"] for c in ground_truth["categories"]], dtype=np.int64))
    annotations = ground_truth["annotations"]
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    difficult = np.array([bool(a.get("iscrowd")) for a in annotations], dtype=np.bool_)
    classes = np.searchsorted(category_ids, [a["category_id"] for a in annotations])
    images = np.array([a["image_id"] for a in annotations], dtype=np.int64)
    num_objects = np.bincount(classes[~difficult], minlength=len(category_ids))

    order = np.argsort(-results.scores, kind="stable")
    own_classes = np.searchsorted(category_ids, results.category_ids[order])
    keys = results.image_ids[order] * len(category_ids) + own_classes
    object_of, overlap = _most_overlapped(results.boxes_xyxy[order], keys, boxes, images * len(category_ids) + classes)
    spared = np.append(difficult, False)[object_of]  # object -1 is none
    judgements = []
    for threshold in IOU_THRESHOLDS:
        reached = overlap >= threshold
        counted = ~(reached & spared)
        hits = np.zeros(len(order), np.bool_)
        found = np.flatnonzero(reached & counted)
        hits[found[np.unique(object_of[found], return_index=True)[1]]] = True  # the first of each object
        judgements.append(
            Judged(
                classes=own_classes[counted],
                scores=results.scores[order][counted],
                hits=hits[counted],
                num_objects=num_objects,
            )
        )
    return judgements


def eleven_points(judged: Judged, index: int) -> float:
    """VOC 2007's average precision of a class: the mean over the recalls 0, 0.1, ... 1."""
    # Tenths as quotients: 3 of 10 objects found is recall 3 / 10 exactly, which 3 * 0.1 is above.
    return float(judged.curve(index).at(np.arange(11) / 10).mean())


def whole_area(judged: Judged, index: int) -> float:
    """VOC 2010's average precision of a class, and that of later years."""
    return judged.curve(index).area()


def _most_overlapped(
    boxes: NDArray[np.float64], keys: NDArray[np.int64], objects: NDArray[np.float64], object_keys: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each box (n, 4) the object (m, 4) of the same key that it overlaps most, of equals the first.

    Returns:
        (n,) rows of objects, -1 where there is none; (n,) the IoU with it, 0 there.
    """
    by_key = np.argsort(object_keys, kind="stable")
    first, end = (np.searchsorted(object_keys[by_key], keys, side=side) for side in ("left", "right"))
    counts = end - first
    starts = np.cumsum(counts) - counts
    rows = np.repeat(np.arange(len(boxes)), counts)
    candidates = by_key[np.arange(len(rows)) - np.repeat(starts - first, counts)]
    pairs = (torch.from_numpy(own[:, None]) for own in (boxes[rows], objects[candidates]))
    overlaps = iou(*pairs).numpy()[:, 0, 0]
    best = np.full(len(boxes), -1, np.int64)
    overlap = np.zeros(len(boxes))
    ranked = np.lexsort((-overlaps, rows))  # stable: of equals the first
    there = np.flatnonzero(counts)
    chosen = ranked[starts[there]]
    best[there], overlap[there] = candidates[chosen], overlaps[chosen]
    return best, overlap
