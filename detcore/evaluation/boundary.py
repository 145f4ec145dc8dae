"""Average precision of masks by their boundaries (Cheng et al., "Boundary IoU", arXiv:2103.16562)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from detcore.evaluation.coco import Accumulated, as_pycocotools_takes
from detcore.evaluation.matching import Columns, accumulate_matches
from detcore.evaluation.results import Results

BOUNDARY_SHARE = 0.02
"""How far a boundary reaches inwards, as a share of the image's diagonal: the paper's default."""

Mask = NDArray[np.uint8]


def reach_of(height: int, width: int) -> int:
    """In pixels, at least 1."""
    return max(1, round(BOUNDARY_SHARE * float(np.hypot(height, width))))


def inner_boundary(mask: Mask, reach: int) -> Mask:
    """(h, w) of 0 and 1: the pixels in whose square of side 2 reach + 1 something else lies, as outside of the array.

    That is the mask less the mask eroded `reach` times by 3 x 3.
    """
    side = 2 * reach + 1
    if min(mask.shape) < side:
        return mask
    sums = np.pad(np.pad(mask, reach).cumsum(axis=0, dtype=np.int32).cumsum(axis=1, dtype=np.int32), ((1, 0), (1, 0)))
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side] == side * side
    return np.where(inside, 0, mask).astype(np.uint8)


def boundary_rle(rle: dict[str, Any]) -> dict[str, Any]:
    """COCO's run lengths of a mask's boundary. Only as much as the mask covers is looked at."""
    height, width = rle["size"]
    mask: Mask = coco_mask.decode(rle)
    x, y, own_width, own_height = (int(value) for value in coco_mask.toBbox(rle))
    window = (slice(y, y + own_height), slice(x, x + own_width))
    mask[window] = inner_boundary(np.ascontiguousarray(mask[window]), reach_of(height, width))
    encoded: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask))
    return encoded


def accumulate_boundaries(ground_truth: dict[str, Any], results: Results, *, judged: bool = False) -> Accumulated:
    """COCO's arrays where two masks overlap by the lesser of their IoU and of their boundaries' IoU.

    With a crowd region counts the share of the detection that lies in it, for both. `judged` also gives which
    detections are true at IoU 0.5.
    """
    found = results.segmentations()
    annotations = as_pycocotools_takes(ground_truth["annotations"], "segm")
    sizes = {image["id"]: (image["height"], image["width"]) for image in ground_truth["images"]}
    crowd = np.array([bool(a.get("iscrowd")) for a in annotations], dtype=np.bool_)

    def overlap(rows: NDArray[np.int64], objects: NDArray[np.int64]) -> NDArray[np.float64]:
        if not len(rows) or not len(objects):
            return np.zeros((len(rows), len(objects)))
        own = [found[row] for row in rows.tolist()]
        truth = [_rle(annotations[place], sizes) for place in objects.tolist()]
        crowds = crowd[objects].tolist()
        whole = _iou(own, truth, crowds)
        return np.minimum(whole, _iou([*map(boundary_rle, own)], [*map(boundary_rle, truth)], crowds))

    return accumulate_matches(
        Columns(
            image_ids=results.image_ids,
            category_ids=results.category_ids,
            areas=np.array(coco_mask.area(found), dtype=np.float64),
        ),
        results.scores,
        Columns(
            image_ids=np.array([a["image_id"] for a in annotations], dtype=np.int64),
            category_ids=np.array([a["category_id"] for a in annotations], dtype=np.int64),
            areas=np.array([a["area"] for a in annotations], dtype=np.float64),
        ),
        crowd,
        overlap=overlap,
        category_ids=sorted(category["id"] for category in ground_truth["categories"]),
        judged=judged,
    )


def _iou(
    found: Sequence[dict[str, Any]], truth: Sequence[dict[str, Any]], crowd: Sequence[bool]
) -> NDArray[np.float64]:
    overlaps: NDArray[np.float64] = coco_mask.iou(found, truth, crowd)
    return overlaps


def _rle(annotation: dict[str, Any], sizes: dict[int, tuple[int, int]]) -> dict[str, Any]:
    segmentation, size = annotation["segmentation"], sizes[annotation["image_id"]]
    if isinstance(segmentation, list):
        rle: dict[str, Any] = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
        return rle
    if isinstance(segmentation["counts"], list):
        rle = coco_mask.frPyObjects(segmentation, *size)
        return rle
    return segmentation  # type: ignore[no-any-return]
