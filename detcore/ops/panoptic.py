"""Objects and classes of pixels in one map: panoptic segmentation, arXiv:1801.00868, section 6 ("Merging")."""

from dataclasses import dataclass

import torch
from torch import Tensor

from detcore.ops.masks import paste_masks
from detcore.ops.semantic import semantic_map
from detcore.ops.shapes import expect
from detcore.structures.batch import Batch, Detections
from detcore.structures.coordinates import boxes_to_original

_MASK_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class PanopticLimits:
    """What becomes a segment.

    Attributes:
        instance_confidence: objects of a lower score do not.
        overlap_threshold: nor does an object of which better ones cover more than this fraction.
        stuff_area_limit: nor does stuff on fewer pixels of the raw image.
    """

    instance_confidence: float = 0.5
    overlap_threshold: float = 0.5
    stuff_area_limit: int = 4096


@dataclass(frozen=True, kw_only=True)
class PanopticSegment:
    """A segment of a panoptic map.

    Attributes:
        id: its pixels' number in the map, from 1 on.
        is_thing: an object; else stuff.
        category: the object's 0-based class; or stuff's class in the semantic map, where 0 stands for all things.
        score: the object's; None for stuff.
        area: its pixels.
    """

    id: int
    is_thing: bool
    category: int
    score: float | None
    area: int


def panoptic(
    detections: Detections, batch: Batch, row: int, limits: PanopticLimits
) -> tuple[Tensor, list[PanopticSegment]]:
    """One image's panoptic map, at the raw image's size; for the end of a pipeline, as it waits for the device.

    Args:
        detections: with masks and semantic logits.
        batch: what they were predicted from.
        row: the image.
        limits: see there.

    Returns:
        (height, width) int32 ids, 0 where there is no segment; and the segments: objects by falling score, then stuff
        by class.

    Raises:
        ValueError: if there are no masks or no semantic logits.
    """
    if detections.masks is None or detections.semantic is None:
        raise ValueError("a panoptic map needs detections with masks and with semantic logits, as panoptic_fpn gives")
    classes = semantic_map(detections.semantic, batch, row).long()
    confident = detections.valid[row] & (detections.scores[row] >= limits.instance_confidence)
    (index,) = confident.nonzero(as_tuple=True)
    boxes = boxes_to_original(detections.boxes_xyxy, batch)[row, index]
    size = (classes.shape[0], classes.shape[1])
    masks = paste_masks(detections.masks[row, index], boxes.to(detections.masks.dtype), size, _MASK_THRESHOLD)
    scores, labels = detections.scores[row, index], detections.labels[row, index]
    num_classes = detections.semantic.shape[1]
    ids, thing_ids, stuff_ids = merge_panoptic(masks, scores, classes, num_classes, limits)
    segment_ids = torch.cat((thing_ids, stuff_ids))
    areas = _counts(ids, len(segment_ids) + 1)[segment_ids]
    stuff = torch.arange(num_classes, device=labels.device)
    columns = (segment_ids, torch.cat((labels, stuff)), areas)
    rows = torch.stack([column.double() for column in columns] + [torch.cat((scores.double(), stuff.double()))]).T
    found = [
        PanopticSegment(
            id=int(number),
            is_thing=place < len(labels),
            category=int(category),
            score=score if place < len(labels) else None,
            area=int(area),
        )
        for place, (number, category, area, score) in enumerate(rows.tolist())
        if number > 0
    ]
    return ids, sorted(found, key=lambda segment: segment.id)


def merge_panoptic(
    masks: Tensor, scores: Tensor, classes: Tensor, num_classes: int, limits: PanopticLimits
) -> tuple[Tensor, Tensor, Tensor]:
    """Lays objects down, the surest first and each only where none lies, and then stuff where there is room.

    Nothing is read back from the device.

    Args:
        masks: (D, H, W) bool.
        scores: (D,) float.
        classes: (H, W) int64 in [0, num_classes), where 0 means a thing.
        num_classes: of the semantic map.
        limits: see there.

    Returns:
        (H, W) int32 ids; (D,) int64, each object's id, and (num_classes,) int64, each class's; 0 for those left out.
        Ids are 1, 2, … without gaps.
    """
    expect("merge_panoptic", masks=(masks, "D H W"), scores=(scores, "D"), classes=(classes, "H W"))
    order = scores.argsort(descending=True, stable=True)
    areas = masks.flatten(1).sum(dim=1)
    candidate = (scores >= limits.instance_confidence) & (areas > 0)
    ids = torch.zeros_like(classes)
    count = ids.new_zeros(())
    thing_ids = torch.zeros_like(order)
    for place in range(len(order)):
        index = order[place : place + 1]
        mask = masks.index_select(0, index)[0]
        covered = (mask & (ids > 0)).sum().double() / areas.index_select(0, index)[0]
        kept = candidate.index_select(0, index)[0] & (covered <= limits.overlap_threshold)
        count = count + kept
        ids = torch.where(mask & (ids == 0) & kept, count, ids)
        thing_ids = thing_ids.index_copy(0, index, (count * kept)[None])
    room = ids == 0
    stuff_areas = _counts(torch.where(room, classes, 0), num_classes)
    kept_stuff = (stuff_areas >= max(limits.stuff_area_limit, 1)) & (torch.arange(num_classes, device=ids.device) > 0)
    stuff_ids = torch.where(kept_stuff, count + kept_stuff.cumsum(dim=0), 0)
    ids = torch.where(room, stuff_ids[classes], ids)
    return ids.int(), thing_ids, stuff_ids


def _counts(values: Tensor, bins: int) -> Tensor:
    """(...) ints in [0, bins) -> (bins,) int64: how often each occurs. Unlike bincount it reads nothing back."""
    flat = values.flatten().long()
    return flat.new_zeros(bins).scatter_add(0, flat, torch.ones_like(flat))
