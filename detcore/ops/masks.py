"""Masks between their three forms: outlines, small masks inside boxes, masks of a whole image."""

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detcore.ops import native
from detcore.ops.shapes import expect
from detcore.structures.batch import Polygons

_SMALLEST_SIDE = 0.1
"""Boxes narrower than this are stretched as if they were so wide: Mask R-CNN's guard against a division by zero."""
_FARTHEST_VERTEX = 1e6
"""In mask pixels; vertices beyond are moved there: the rasteriser walks every outline step by step, in int32."""
_PASTE_CHUNK = 2**26
"""Output pixels sampled at once on a GPU."""


def polygon_roi_masks(polygons: Polygons, boxes: Tensor, objects: Tensor, size: int) -> Tensor:
    """Mask targets (He et al., Mask R-CNN, 2017): each box's object, cropped to the box and drawn size x size.

    Equal bit for bit to pycocotools: the object's rings less the box's (x1, y1), times size / max(side, 0.1), in
    float64, through `frPyObjects`, `merge` and `decode`.

    Args:
        polygons: outlines of the batch.
        boxes: (B, R, 4) float, (x1, y1, x2, y2), in the pixels of the outlines.
        objects: (B, R) int64, the object of each box, an index into `Targets`; -1 for none.
        size: height and width of a mask.

    Returns:
        (B, R, size, size) bool. Empty where a box has no area or a non-finite coordinate, and where its object has no
        rings; rings with fewer than three vertices or a non-finite one do not count.
    """
    expect(
        "polygon_roi_masks",
        vertices=(polygons.vertices, "B V 2"),
        ring_starts=(polygons.ring_starts, "B G"),
        ring_counts=(polygons.ring_counts, "B G"),
        ring_objects=(polygons.ring_objects, "B G"),
        boxes=(boxes, "B R 4"),
        objects=(objects, "B R"),
    )
    if size < 0:
        raise ValueError(f"polygon_roi_masks: size {size} must not be negative")
    if native.serves(boxes.device.type):
        drawn: Tensor = torch.ops.detcore.polygon_roi_masks(
            polygons.vertices,
            polygons.ring_starts,
            polygons.ring_counts,
            polygons.ring_objects,
            boxes.detach(),
            objects,
            size,
        )
        return drawn
    return polygon_roi_masks_reference(polygons, boxes, objects, size)


def polygon_roi_masks_reference(polygons: Polygons, boxes: Tensor, objects: Tensor, size: int) -> Tensor:
    """`polygon_roi_masks` by pycocotools, on the host: GPU tensors are copied there and back."""
    batch, num_boxes = objects.shape
    out = np.zeros((batch, num_boxes, size, size), dtype=bool)
    boxes_np = boxes.detach().double().cpu().numpy()
    arrays = [
        t.cpu().numpy()
        for t in (
            objects,
            polygons.vertices.double(),
            polygons.ring_starts,
            polygons.ring_counts,
            polygons.ring_objects,
        )
    ]
    for image in range(batch):
        image_objects, vertices, starts, counts, ring_objects = (array[image] for array in arrays)
        row, ring = _rings_of_boxes(boxes_np[image], image_objects, ring_objects, counts)
        if len(row):
            _draw(out[image], boxes_np[image], vertices, row, starts[ring], counts[ring])
    return torch.from_numpy(out).to(boxes.device)


def _rings_of_boxes(
    boxes: NDArray[np.float64], objects: NDArray[np.int64], ring_objects: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (box, ring) of each box with every ring of its object, by rising box."""
    drawable = np.isfinite(boxes).all(axis=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    (own_boxes,) = np.nonzero(drawable & (objects >= 0))
    (rings,) = np.nonzero(counts >= 3)
    pair, ring = np.nonzero(objects[own_boxes, None] == ring_objects[rings])
    return own_boxes[pair], rings[ring]


def _draw(
    out: NDArray[np.bool_],
    boxes: NDArray[np.float64],
    vertices: NDArray[np.float64],
    row: NDArray[np.int64],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Draws one image's pairs of box (row) and ring (starts, counts) into out (R, size, size)."""
    from pycocotools import mask as coco_mask

    size = out.shape[-1]
    offsets = np.concatenate(([0], np.cumsum(counts)))
    index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], counts)
    own = boxes[row]
    scale = size / np.maximum(own[:, 2:] - own[:, :2], _SMALLEST_SIDE)
    points = (vertices[index] - np.repeat(own[:, :2], counts, axis=0)) * np.repeat(scale, counts, axis=0)
    flat = points.clip(-_FARTHEST_VERTEX, _FARTHEST_VERTEX).reshape(-1)
    rings = [flat[2 * first : 2 * last] for first, last in pairwise(offsets)]
    finite = np.logical_and.reduceat(np.isfinite(points).all(axis=1), offsets[:-1])
    if not finite.all():
        rings, row = [ring for ring, usable in zip(rings, finite, strict=True) if usable], row[finite]
        if not rings:
            return
    drawn = coco_mask.decode(coco_mask.frPyObjects(rings, size, size)).transpose(2, 0, 1).view(bool)
    first = np.flatnonzero(np.diff(row, prepend=-1))
    out[row[first]] = drawn if len(first) == len(row) else np.logical_or.reduceat(drawn, first, axis=0)


def paste_masks(masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float) -> Tensor:
    """Masks predicted inside boxes, put into the image: bilinear samples at the pixels' centres, then a threshold.

    The convention of Mask R-CNN: a box's edges are the outer edges of its mask's outer pixels, outside of which all is
    0. Sampling is `grid_sample`'s with align_corners=False.

    Args:
        masks: (K, S, S) float, probabilities.
        boxes: (K, 4), (x1, y1, x2, y2) in image pixels.
        image_size: (height, width).
        threshold: above 0; a pixel belongs to the mask from this value on.

    Returns:
        (K, height, width) bool; empty for a box without area or with a non-finite coordinate.

    Raises:
        ValueError: if the threshold is not above 0, where everything outside the boxes would be mask; for sizes that do
            not fit.
    """
    expect("paste_masks", masks=(masks, "K S S"), boxes=(boxes, "K 4"))
    masks, boxes = checked_for_pasting(masks, boxes, image_size, threshold)
    height, width = image_size
    if native.serves(masks.device.type):
        pasted: Tensor = torch.ops.detcore.paste_masks(masks, boxes, height, width, threshold)
        return pasted
    return paste_masks_reference(masks, boxes, image_size, threshold)


def checked_for_pasting(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float
) -> tuple[Tensor, Tensor]:
    """Masks and boxes in the dtype that pasting computes in: float64 where the masks have it, else float32."""
    if not threshold > 0 or min(image_size) < 0:
        raise ValueError(
            f"paste_masks: threshold {threshold} must be above 0, and image_size {image_size} not negative"
        )
    masks = masks.detach().to(torch.promote_types(masks.dtype, torch.float32))
    return masks, boxes.detach().to(masks.dtype)


def paste_masks_reference(masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float) -> Tensor:
    """`paste_masks` by grid_sample; masks and boxes both float32 or both float64."""
    height, width = image_size
    usable = boxes.isfinite().all(dim=1) & (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    nowhere = (-2.0, -2.0, -1.0, -1.0)
    boxes = torch.stack([torch.where(usable, boxes[:, k], value) for k, value in enumerate(nowhere)], dim=1)
    out = torch.zeros((len(masks), height, width), dtype=torch.bool, device=masks.device)
    if masks.is_cuda:
        step = max(1, _PASTE_CHUNK // max(1, height * width))
        for first in range(0, len(masks), step):
            part = slice(first, first + step)
            out[part] = _sample(masks[part], boxes[part], 0, 0, height, width) >= threshold
        return out
    # A mask reaches half a mask pixel beyond its box; no pixel farther out is sampled.
    end = boxes.new_tensor([width, height])
    margin = (boxes[:, 2:] - boxes[:, :2]) / (2 * masks.shape[-1]) + 1
    low = torch.minimum((boxes[:, :2] - margin).floor().clamp(min=0), end).long().tolist()
    high = torch.minimum((boxes[:, 2:] + margin).ceil().clamp(min=0), end).long().tolist()
    for row, ((x0, y0), (x1, y1)) in enumerate(zip(low, high, strict=True)):
        if x0 < x1 and y0 < y1:
            part = slice(row, row + 1)
            out[row, y0:y1, x0:x1] = _sample(masks[part], boxes[part], x0, y0, y1, x1)[0] >= threshold
    return out


def _sample(masks: Tensor, boxes: Tensor, left: int, top: int, bottom: int, right: int) -> Tensor:
    """(K, S, S), (K, 4) -> (K, bottom - top, right - left): the masks at the centres of these image pixels."""
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)
    x = torch.arange(left, right, device=masks.device, dtype=masks.dtype) + 0.5
    y = torch.arange(top, bottom, device=masks.device, dtype=masks.dtype) + 0.5
    x, y = (x - x1) / (x2 - x1) * 2 - 1, (y - y1) / (y2 - y1) * 2 - 1
    shape = (len(masks), bottom - top, right - left)
    grid = torch.stack((x[:, None, :].expand(shape), y[:, :, None].expand(shape)), dim=-1)
    return torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]


def _fake_polygons(
    vertices: Tensor, starts: Tensor, counts: Tensor, owners: Tensor, boxes: Tensor, objects: Tensor, size: int
) -> Tensor:
    return boxes.new_empty((*objects.shape, size, size), dtype=torch.bool)


def _fake_paste(masks: Tensor, boxes: Tensor, height: int, width: int, *_: Any) -> Tensor:
    return masks.new_empty((masks.shape[0], height, width), dtype=torch.bool)


native.define(
    "polygon_roi_masks",
    "(Tensor vertices, Tensor ring_starts, Tensor ring_counts, Tensor ring_objects, Tensor boxes, Tensor objects, "
    "SymInt size) -> Tensor",
    _fake_polygons,
)
native.define(
    "paste_masks",
    "(Tensor masks, Tensor boxes, SymInt height, SymInt width, float threshold) -> Tensor",
    _fake_paste,
)
