"""Average precision of boxes as Pascal VOC measures it (Everingham et al., IJCV 88, 2010, section 4.2)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from detcore.evaluation.coco import IOU_THRESHOLDS
from detcore.evaluation.judged import Judged
from detcore.evaluation.metrics import Outcome, judged_precision
from detcore.evaluation.results import Results
from detcore.evaluation.rotated import upright_as_rotated
from detcore.evaluation.truth import GroundTruth
from detcore.ops import box_iou_rotated
from detcore.structures.boxes import iou

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


def judged_as_voc(ground_truth: Mapping[str, Any], results: Results, *, rotated: bool = False) -> list[Judged]:
    """The detections at each of COCO's IoU thresholds; the first, 0.5, is Pascal VOC's.

    A detection belongs to the object of its class that it overlaps most. If they overlap by the threshold or more, the
    best-scored detection of an object is true and all others of it are false; those of a difficult object, which is a
    crowd region here, do not count. Boxes are continuous: VOC's pixels, whose numbers a box includes, are a pixel wide.

    Args:
        rotated: judge the rotated boxes, as DOTA does (arXiv:1711.10398, section 5.1).

    Returns:
        10 judgements; classes are places in the order of the categories' ids.
    """
    category_ids = np.sort(np.array([c["id"] for c in ground_truth["categories"]], dtype=np.int64))
    annotations = ground_truth["annotations"]
    difficult = np.array([bool(a.get("iscrowd")) for a in annotations], dtype=np.bool_)
    classes = np.searchsorted(category_ids, [a["category_id"] for a in annotations])
    images = np.array([a["image_id"] for a in annotations], dtype=np.int64)
    num_objects = np.bincount(classes[~difficult], minlength=len(category_ids))

    order = np.argsort(-results.scores, kind="stable")
    own_classes = np.searchsorted(category_ids, results.category_ids[order])
    keys = results.image_ids[order] * len(category_ids) + own_classes
    object_keys = images * len(category_ids) + classes
    if rotated:
        turned = np.array([upright_as_rotated(a) for a in annotations], dtype=np.float64).reshape(-1, 5)
        assert results.boxes_xywha is not None
        pairs_iou = partial(_rotated_iou, results.boxes_xywha[order], turned)
    else:
        boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        pairs_iou = partial(_upright_iou, results.boxes_xyxy[order], boxes)
    object_of, overlap = _most_overlapped(keys, object_keys, pairs_iou)
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


def voc_precision(
    truth: GroundTruth,
    results: Results,
    protocol: Literal["voc2007", "voc2010"],
    *,
    rotated: bool = False,
    operating_points: bool = False,
) -> Outcome:
    """The metrics of boxes, or of rotated ones, by VOC's rules."""
    return judged_precision(
        judged_as_voc(truth.coco, results, rotated=rotated),
        truth.names_by_id,
        prefix="rotated" if rotated else "box",
        precision_of=eleven_points if protocol == "voc2007" else whole_area,
        operating_points=operating_points,
    )


def _upright_iou(boxes: Floats, objects: Floats, rows: Integers, candidates: Integers) -> Floats:
    """Of pairs, given by their rows (p,) of boxes (n, 4) and of objects (m, 4)."""
    pairs = (torch.from_numpy(own[:, None]) for own in (boxes[rows], objects[candidates]))
    overlaps: Floats = iou(*pairs).numpy()[:, 0, 0]
    return overlaps


def _rotated_iou(boxes: Floats, objects: Floats, rows: Integers, candidates: Integers) -> Floats:
    """The same of (n, 5) and (m, 5) rotated boxes; the pairs of a box lie together."""
    own, others = torch.from_numpy(boxes), torch.from_numpy(objects)
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    overlaps = [
        box_iou_rotated(own[row, None], others[candidates[start:end]])[0].numpy()
        for row, start, end in zip(rows[starts], starts, np.append(starts[1:], len(rows)), strict=True)
    ]
    return np.concatenate([np.zeros(0), *overlaps])


def _most_overlapped(
    keys: Integers, object_keys: Integers, pairs_iou: Callable[[Integers, Integers], Floats]
) -> tuple[Integers, Floats]:
    """Of each box, by its key (n,), the object of the same key (m,) that it overlaps most, of equals the first.

    Returns:
        (n,) rows of objects, -1 where there is none; (n,) the IoU with it, 0 there.
    """
    by_key = np.argsort(object_keys, kind="stable")
    first, end = (np.searchsorted(object_keys[by_key], keys, side=side) for side in ("left", "right"))
    counts = end - first
    starts = np.cumsum(counts) - counts
    rows = np.repeat(np.arange(len(keys)), counts)
    candidates = by_key[np.arange(len(rows)) - np.repeat(starts - first, counts)]
    overlaps = pairs_iou(rows, candidates)
    best = np.full(len(keys), -1, np.int64)
    overlap = np.zeros(len(keys))
    ranked = np.lexsort((-overlaps, rows))  # stable: of equals the first
    there = np.flatnonzero(counts)
    chosen = ranked[starts[there]]
    best[there], overlap[there] = candidates[chosen], overlaps[chosen]
    return best, overlap
