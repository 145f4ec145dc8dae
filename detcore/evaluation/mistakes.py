"""What is wrong with each false detection, and what that says of the truth.

The kinds are TIDE's (Bolya et al., arXiv:2008.08115, section 2.2), tried in its order.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from detcore.evaluation.diagnosis import Diagnosis, Matches
from detcore.evaluation.rotated import upright_as_rotated
from detcore.ops import box_iou_rotated

Fault = Literal["Loc", "Cls", "Dupe", "Bkg", "Both"]
_HIT, _NOTHING = 0.5, 0.1
"""IoU from which an object is found, and up to which nothing is."""
_SUSPICIONS: dict[Fault, str] = {"Bkg": "missing", "Cls": "class", "Loc": "place"}


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """A false detection.

    Attributes:
        row: of the results.
        fault: 'Loc', badly placed; 'Cls', of another class; 'Dupe', found twice; 'Bkg', nothing there; 'Both'.
        annotation: the place of the object that it is nearest to, or -1.
        iou: with that, 0 where there is none.
    """

    row: int
    fault: Fault
    annotation: int
    iou: float


def mistakes(diagnosis: Diagnosis, matches: Matches, *, min_score: float = -np.inf) -> list[Mistake]:
    """The false detections from a score on, by image.

    Args:
        diagnosis: of boxes, masks or rotated boxes; what their IoU is with objects that are no crowd regions decides.
        matches: its matches at IoU 0.5.
        min_score: of the detections that are looked at.
    """
    results, annotations = diagnosis.results, diagnosis.truth.coco["annotations"]
    false = matches.rows[~matches.hits & (results.scores[matches.rows] >= min_score)]
    objects = defaultdict(list)
    for place, annotation in enumerate(annotations):
        objects[annotation["image_id"]].append(place)
    found = set(matches.objects.tolist())
    starts = np.flatnonzero(np.diff(results.image_ids[false], prepend=-1))
    return [
        mistake
        for rows in np.split(false, starts[1:])
        if len(rows)
        for mistake in _of_image(diagnosis, rows, objects[int(results.image_ids[rows[0]])], found)
    ]


def _of_image(diagnosis: Diagnosis, rows: NDArray[np.int64], objects: list[int], found: set[int]) -> Iterable[Mistake]:
    if not objects:
        return [Mistake(row=row, fault="Bkg", annotation=-1, iou=0.0) for row in rows.tolist()]
    annotations = [diagnosis.truth.coco["annotations"][place] for place in objects]
    overlaps = _overlaps(diagnosis, rows, annotations)
    own = diagnosis.results.category_ids[rows][:, None] == np.array([a["category_id"] for a in annotations])
    taken = np.array([place in found for place in objects])
    single = np.broadcast_to([not a.get("iscrowd") for a in annotations], own.shape)
    # Of each row by column: an object of the class or a crowd of them, one of another, one found already, any.
    kinds = [np.where(which, overlaps, -1.0) for which in (own, ~own & single, own & taken, single)]
    best = [kind.argmax(axis=1) for kind in kinds]
    highest = [kind.max(axis=1) for kind in kinds]
    mistakes = []
    for index, row in enumerate(rows.tolist()):
        same, other, twice, any_ = (float(values[index]) for values in highest)
        fault, which = _fault(same, other, twice, any_)
        value = float(highest[which][index])
        there = value > 0
        annotation = objects[best[which][index]] if there else -1
        mistakes.append(Mistake(row=row, fault=fault, annotation=annotation, iou=value if there else 0.0))
    return mistakes


def _fault(same: float, other: float, twice: float, any_: float) -> tuple[Fault, int]:
    """Of the highest IoU with objects of the class, of others, of those found already, of all; which one tells it."""
    if _NOTHING <= same <= _HIT:
        return "Loc", 0
    if other >= _HIT:
        return "Cls", 1
    if twice >= _HIT:
        return "Dupe", 2
    return ("Bkg" if any_ <= _NOTHING else "Both"), 3


def _overlaps(diagnosis: Diagnosis, rows: NDArray[np.int64], annotations: list[dict[str, Any]]) -> NDArray[np.float64]:
    """(rows, annotations) IoU; with a crowd region, upright, the share of the detection that lies in it."""
    from pycocotools import mask as coco_mask

    results, crowd = diagnosis.results, [int(bool(a.get("iscrowd"))) for a in annotations]
    overlaps: NDArray[np.float64]
    match diagnosis.kind:
        case "masks":
            assert results.rles is not None
            size = results.sizes[rows[0]].tolist()
            found = [{"size": size, "counts": results.rles[row]} for row in rows.tolist()]
            overlaps = coco_mask.iou(found, diagnosis.truth.loaded.run_lengths(a["id"] for a in annotations), crowd)
        case "rotated":
            assert results.boxes_xywha is not None
            boxes = np.array([upright_as_rotated(a) for a in annotations], dtype=np.float64)
            overlaps = box_iou_rotated(torch.from_numpy(results.boxes_xywha[rows]), torch.from_numpy(boxes)).numpy()
        case _:
            boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64)
            low, high = results.boxes_xyxy[rows, :2], results.boxes_xyxy[rows, 2:]
            overlaps = coco_mask.iou(np.concatenate((low, high - low), axis=1), boxes, crowd)
    return overlaps
