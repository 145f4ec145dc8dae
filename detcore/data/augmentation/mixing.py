"""Several pictures on one canvas: mosaic, mixup, copy-paste. All canvases here are settled."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from detcore.data.augmentation.canvas import Canvas, Region
from detcore.data.augmentation.geometry import Matrix, Size, shift
from detcore.data.augmentation.objects import Limits, PlacedObjects, cut, join
from detcore.data.outlines import fill_rings, outline_without_holes, simplify_ring

_TOLERANCE = 0.5
"""Of the outline of what is left of an object, in pixels."""


def trimmed(canvas: Canvas, limits: Limits) -> Canvas:
    """A canvas on which nothing is seen beyond its edges, also when it becomes a part of a larger one."""
    height, width = canvas.size
    region = Region.rectangle(0.0, 0.0, width, height)
    objects = cut(canvas.objects, canvas.size, limits, cut_rings=True)
    return replace(canvas, layers=[layer.within(region) for layer in canvas.layers], objects=objects)


def shifted(canvas: Canvas, x: float, y: float) -> Canvas:
    """A canvas whose content has moved."""
    moving = replace(canvas, geometry=shift(x, y))
    moving.settle(())
    return moving


def mosaic(canvases: list[Canvas], size: Size, meeting: tuple[int, int]) -> Canvas:
    """Four trimmed canvases around a point: the top left, top right, bottom left and bottom right one.

    Args:
        canvases: the four.
        size: of the result.
        meeting: x and y of the point.
    """
    x, y = meeting
    placed = []
    for number, canvas in enumerate(canvases):
        height, width = canvas.size
        placed.append(shifted(canvas, x if number % 2 else x - width, y if number // 2 else y - height))
    layers = [layer for canvas in placed for layer in canvas.layers]
    return Canvas(size, layers, join([canvas.objects for canvas in placed]))


def centred(canvas: Canvas, size: Size) -> Canvas:
    """A canvas in the middle of one of another size, on whole pixels."""
    left, top = (size[1] - canvas.size[1]) // 2, (size[0] - canvas.size[0]) // 2
    return replace(shifted(canvas, left, top), size=size) if left or top else replace(canvas, size=size)


def mixed(ground: Canvas, partner: Canvas, opacity: float) -> Canvas:
    """A trimmed partner shining through."""
    over = [replace(layer, opacity=layer.opacity * opacity) for layer in partner.layers]
    return replace(ground, layers=[*ground.layers, *over], objects=join([ground.objects, partner.objects]))


def pasted(ground: Canvas, partner: Canvas, chosen: NDArray[np.bool_], limits: Limits) -> Canvas:
    """The ground with a trimmed partner's chosen objects over it; those without outlines are left out.

    Args:
        ground: objects that are hidden lose what is, or are dropped if less than `limits.min_visible` of them is left.
        partner: of the same size.
        chosen: (n,) of the partner's objects.
        limits: which objects are left out.
    """
    outlined = np.isin(np.arange(len(partner.objects)), partner.objects.ring_objects)
    over = partner.objects.select(chosen & outlined)
    over = cut(over, ground.size, limits, cut_rings=True)
    if not len(over):
        return ground
    region = Region(over.vertices, over.ring_counts)
    layers = [*ground.layers, *(layer.within(region) for layer in partner.layers)]
    return replace(ground, layers=layers, objects=join([hide(ground.objects, over, limits), over]))


def hide(objects: PlacedObjects, over: PlacedObjects, limits: Limits) -> PlacedObjects:
    """Objects less what lies under others, which have outlines.

    What is left of an outline is followed along the pixels' edges and simplified by half a pixel. A keypoint that is
    covered counts as hidden. Objects without outlines stay as they are.
    """
    boxes, kept = objects.boxes_xyxy.copy(), np.ones(len(objects), np.bool_)
    ends = np.cumsum(objects.ring_counts)
    rings: list[list[Matrix]] = [[] for _ in range(len(objects))]
    for owner, first, last in zip(objects.ring_objects, ends - objects.ring_counts, ends, strict=True):
        rings[owner].append(objects.vertices[first:last])
    low = np.maximum(boxes[:, None, :2], over.boxes_xyxy[:, :2])
    high = np.minimum(boxes[:, None, 2:], over.boxes_xyxy[:, 2:])
    for index in np.flatnonzero(np.all(high > low, axis=2).any(axis=1)).tolist():
        if not rings[index]:
            continue
        own = np.concatenate(rings[index])
        origin = np.floor(own.min(axis=0))
        width, height = (np.ceil(own.max(axis=0)) - origin).astype(int).tolist()
        counts = np.array([len(ring) for ring in rings[index]])
        before = fill_rings(own - origin, counts, (height, width))
        left = before & ~fill_rings(over.vertices - origin, over.ring_counts, (height, width))
        if left.sum() == before.sum():
            continue
        kept[index] = left.any() and left.sum() >= limits.min_visible * before.sum()
        if kept[index]:
            rings[index] = [_simplified(ring) + origin for ring in outline_without_holes(left)]
            rows, columns = np.flatnonzero(left.any(axis=1)), np.flatnonzero(left.any(axis=0))
            extent = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            boxes[index] = extent + np.tile(origin, 2)
    flat = [ring for own_rings in rings for ring in own_rings]
    return replace(
        objects,
        boxes_xyxy=boxes if objects.boxes_xywha is None else objects.boxes_xyxy,
        vertices=np.concatenate([np.zeros((0, 2)), *flat]),
        ring_counts=np.array([len(ring) for ring in flat], np.int64),
        ring_objects=np.repeat(np.arange(len(rings)), [len(own_rings) for own_rings in rings]),
        keypoints=None if objects.keypoints is None else _covered(objects.keypoints, over),
    ).select(kept)


def _simplified(ring: Matrix) -> Matrix:
    """As it is where nothing would be left."""
    simple = simplify_ring(ring, tolerance=_TOLERANCE)
    return simple if len(simple) > 2 else ring


def _covered(keypoints: Matrix, over: PlacedObjects) -> Matrix:
    """Keypoints (n, K, 3), those under other objects hidden."""
    low, high = over.boxes_xyxy[:, :2].min(axis=0), over.boxes_xyxy[:, 2:].max(axis=0)
    origin = np.floor(low)
    width, height = (np.ceil(high) - origin).astype(int).tolist()
    mask = fill_rings(over.vertices - origin, over.ring_counts, (height, width))
    places = np.floor(keypoints[..., :2] - origin).astype(int)
    inside = ((places >= 0) & (places < [width, height])).all(axis=-1)
    columns, rows = np.where(inside[..., None], places, 0).transpose(2, 0, 1)
    hidden = inside & mask[rows, columns] & (keypoints[..., 2] == 2)
    return np.stack([keypoints[..., 0], keypoints[..., 1], np.where(hidden, 1.0, keypoints[..., 2])], axis=-1)
