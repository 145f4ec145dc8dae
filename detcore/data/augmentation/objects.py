"""Objects of an image as they move with its pixels, are cut off with it and disappear from it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from detcore.data.augmentation.geometry import Matrix, Size, is_affine
from detcore.data.rings import clip_rings, flatten_rings
from detcore.data.rotated import move, upright
from detcore.ops import native

_HORIZON = 1e-3
"""The least depth that a perspective divides by."""

_BEYOND = 1e-6
"""An object that reaches so far over an edge, in pixels, is cut off there; less is rounding."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which objects are no targets: those with a side of no more than `min_size` pixels, and those that were cut or
    covered until less than `min_visible` of their area was left."""

    min_size: float
    min_visible: float


@dataclass(frozen=True)
class PlacedObjects:
    """Objects of one image in pixels of the raw image, of a canvas, or of the network's input.

    Attributes:
        boxes_xyxy: (n, 4).
        labels: (n,) int64.
        vertices: (v, 2), the rings' points one after the other.
        ring_counts: (r,) int64, points of each ring.
        ring_objects: (r,) int64, index of each ring's object; not falling.
        keypoints: (n, K, 3) x, y and visibility, or None.
        boxes_xywha: (n, 5), the angle in degrees, or None; `boxes_xyxy` are then the upright boxes around.
    """

    boxes_xyxy: Matrix
    labels: NDArray[np.int64]
    vertices: Matrix
    ring_counts: NDArray[np.int64]
    ring_objects: NDArray[np.int64]
    keypoints: Matrix | None = None
    boxes_xywha: Matrix | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(
        cls,
        *,
        boxes_xyxy: Matrix,
        labels: NDArray[np.int64],
        polygons: Sequence[Sequence[Matrix]] = (),
        keypoints: Matrix | None = None,
        boxes_xywha: Matrix | None = None,
    ) -> "PlacedObjects":
        """Objects as samples have them.

        Args:
            boxes_xyxy: (n, 4); not read where there are rotated boxes.
            labels: (n,).
            polygons: rings (k, 2) of each object, n lists or none at all.
            keypoints: (n, K, 3), or None.
            boxes_xywha: (n, 5), or None.
        """
        boxes = boxes_xyxy if boxes_xywha is None else upright(boxes_xywha)
        return cls(boxes, labels, *flatten_rings(polygons), keypoints, boxes_xywha)

    def select(self, kept: NDArray[np.bool_]) -> "PlacedObjects":
        """Those that are kept (n,)."""
        if kept.all():
            return self
        ring_kept = kept[self.ring_objects]
        return PlacedObjects(
            boxes_xyxy=self.boxes_xyxy[kept],
            labels=self.labels[kept],
            vertices=self.vertices[np.repeat(ring_kept, self.ring_counts)],
            ring_counts=self.ring_counts[ring_kept],
            ring_objects=(np.cumsum(kept) - 1)[self.ring_objects[ring_kept]],
            keypoints=None if self.keypoints is None else self.keypoints[kept],
            boxes_xywha=None if self.boxes_xywha is None else self.boxes_xywha[kept],
        )


def join(groups: Sequence[PlacedObjects]) -> PlacedObjects:
    """The objects of several images on one canvas, in this order; all have keypoints or rotated boxes, or none has."""
    firsts = np.cumsum([0, *(len(group) for group in groups[:-1])])
    keypoints = [group.keypoints for group in groups if group.keypoints is not None]
    rotated = [group.boxes_xywha for group in groups if group.boxes_xywha is not None]
    return PlacedObjects(
        boxes_xyxy=np.concatenate([group.boxes_xyxy for group in groups]),
        labels=np.concatenate([group.labels for group in groups]),
        vertices=np.concatenate([group.vertices for group in groups]),
        ring_counts=np.concatenate([group.ring_counts for group in groups]),
        ring_objects=np.concatenate([g.ring_objects + first for g, first in zip(groups, firsts, strict=True)]),
        keypoints=np.concatenate(keypoints) if keypoints else None,
        boxes_xywha=np.concatenate(rotated) if rotated else None,
    )


def moved(objects: PlacedObjects, geometry: Matrix, keypoint_flip: Sequence[int] = ()) -> PlacedObjects:
    """Objects after a transform of their image.

    Under rotation or shear a box becomes the extent of its object's moved outline where there is one, else of its moved
    corners.

    Args:
        objects: before.
        geometry: (3, 3).
        keypoint_flip: which keypoint each one is in a mirrored image.
    """
    vertices, rotated, keypoints = move_points(objects.vertices, geometry), objects.boxes_xywha, objects.keypoints
    if rotated is None:
        boxes = _moved_boxes(objects, vertices, geometry)
    else:
        rotated = _moved_rotated(rotated, geometry)
        boxes = upright(rotated)
    if keypoints is not None:
        if np.linalg.det(geometry) < 0:
            keypoints = keypoints[:, list(keypoint_flip)]
        points, visibility = move_points(keypoints[..., :2], geometry), keypoints[..., 2:]
        keypoints = np.where(visibility > 0, np.concatenate([points, visibility], axis=-1), 0.0)
    return replace(objects, boxes_xyxy=boxes, vertices=vertices, keypoints=keypoints, boxes_xywha=rotated)


def placed(
    objects: PlacedObjects, geometry: Matrix, size: Size, limits: Limits, keypoint_flip: Sequence[int] = ()
) -> PlacedObjects:
    """`moved`, and then `cut`: where there are boxes and outlines only, and no perspective, in a tenth of the time."""
    host = native.host()
    plain = objects.keypoints is None and objects.boxes_xywha is None and is_affine(geometry)
    if host is None or not plain:
        return cut(moved(objects, geometry, keypoint_flip), size, limits)
    flat = objects.boxes_xyxy, objects.labels, objects.vertices, objects.ring_counts, objects.ring_objects
    return PlacedObjects(*host.place_objects(*flat, geometry, *size, limits.min_size, limits.min_visible))


def _moved_boxes(objects: PlacedObjects, vertices: Matrix, geometry: Matrix) -> Matrix:
    """(n, 4); `vertices` have been moved already."""
    if not (geometry[0, 1] or geometry[1, 0]) and is_affine(geometry):
        ends = move_points(objects.boxes_xyxy.reshape(-1, 2, 2), geometry)
        return np.concatenate([np.minimum(ends[:, 0], ends[:, 1]), np.maximum(ends[:, 0], ends[:, 1])], axis=1)
    corners = move_points(objects.boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), geometry).reshape(-1, 4, 2)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    if len(vertices):
        outlined, extents = ring_extents(vertices, objects.ring_counts, objects.ring_objects)
        boxes[outlined] = extents
    return boxes


def _moved_rotated(boxes_xywha: Matrix, geometry: Matrix) -> Matrix:
    """(n, 5); under a perspective each is moved by the affine map that is nearest to it at the box's centre."""
    if is_affine(geometry):
        return move(boxes_xywha, geometry)
    rows = [np.zeros((0, 5))]
    for box in boxes_xywha:
        at = move_points(box[:2], geometry)
        depth = max(float(box[:2] @ geometry[2, :2] + geometry[2, 2]), _HORIZON)
        local = np.eye(3)
        local[:2, :2] = (geometry[:2, :2] - np.outer(at, geometry[2, :2])) / depth
        local[:2, 2] = at - local[:2, :2] @ box[:2]
        rows.append(move(box[None], local))
    return np.concatenate(rows)


def ring_extents(
    vertices: Matrix, ring_counts: NDArray[np.int64], ring_objects: NDArray[np.int64]
) -> tuple[NDArray[np.int64], Matrix]:
    """The objects (k,) that have points, and the least boxes (k, 4) around these."""
    some = ring_counts > 0
    owners, starts = ring_objects[some], (np.cumsum(ring_counts) - ring_counts)[some]
    first_ring = np.flatnonzero(np.diff(owners, prepend=-1))
    outlined, first = owners[first_ring], starts[first_ring]
    if not len(outlined):
        return outlined, np.zeros((0, 4))
    low, high = np.minimum.reduceat(vertices, first), np.maximum.reduceat(vertices, first)
    return outlined, np.concatenate([low, high], axis=1)


def cut(objects: PlacedObjects, size: Size, limits: Limits, *, cut_rings: bool = False) -> PlacedObjects:
    """Cuts objects off at the edges of their image and drops what is hardly left of any.

    A box is cut to the image, and where its object has an outline that leaves the image, to what of that is inside. It
    is dropped if it is beyond the limits. Rotated boxes are not cut: an object is dropped if its centre lies outside or
    a side is too small. A keypoint outside is as one that is not labelled: 0, 0, 0.

    Args:
        objects: in pixels of the image.
        size: height and width of the image.
        limits: of what stays.
        cut_rings: whether outlines lose their parts outside, which masks, read inside boxes only, do not show.
    """
    edge = np.array(size[::-1], np.float64)
    if objects.boxes_xywha is None:
        leaving, whole = _leaving(objects.boxes_xyxy, edge), _sides(objects.boxes_xyxy)
        boxes = np.minimum(np.maximum(objects.boxes_xyxy, 0.0), np.concatenate([edge, edge]))
        if leaving.any() and len(objects.vertices):
            own = leaving[objects.ring_objects]
            vertices, counts = _clipped(objects, own, edge)
            outlined, extents = ring_extents(vertices, counts, objects.ring_objects[own])
            boxes[objects.ring_objects[own]] = 0.0  # unless something of the outline is inside
            boxes[outlined] = extents
            objects = _with_rings(objects, own, vertices, counts) if cut_rings else objects
        left = _sides(boxes)
        enough = left[0] * left[1] >= limits.min_visible * (whole[0] * whole[1])
        kept = (left[0] > limits.min_size) & (left[1] > limits.min_size) & enough
        objects = replace(objects, boxes_xyxy=boxes)
    else:
        centre, sides = objects.boxes_xywha[:, :2], objects.boxes_xywha[:, 2:4]
        kept = ((sides > limits.min_size) & (centre >= 0.0) & (centre < edge)).all(axis=1)
    if objects.keypoints is not None:
        points = objects.keypoints[..., :2]
        inside = ((points >= 0.0) & (points < edge)).all(axis=-1, keepdims=True)
        objects = replace(objects, keypoints=np.where(inside, objects.keypoints, 0.0))
    return objects.select(kept)


def _sides(boxes_xyxy: Matrix) -> Matrix:
    """Widths and heights (2, n) of boxes (n, 4)."""
    sides: Matrix = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).T
    return sides


def _leaving(boxes_xyxy: Matrix, edge: Matrix) -> NDArray[np.bool_]:
    """Which boxes (n, 4) reach over the edges of an image."""
    over: NDArray[np.bool_] = np.any((boxes_xyxy[:, :2] < -_BEYOND) | (boxes_xyxy[:, 2:] > edge + _BEYOND), axis=1)
    return over


def _clipped(objects: PlacedObjects, own: NDArray[np.bool_], edge: Matrix) -> tuple[Matrix, NDArray[np.int64]]:
    """Points and counts of some rings (r,), cut to the image."""
    counts = objects.ring_counts[own]
    rectangles = np.tile(np.concatenate([np.zeros(2), edge]), (len(counts), 1))
    return clip_rings(objects.vertices[np.repeat(own, objects.ring_counts)], counts, rectangles)


def _with_rings(
    objects: PlacedObjects, own: NDArray[np.bool_], vertices: Matrix, counts: NDArray[np.int64]
) -> PlacedObjects:
    """With other points in place of those of some rings (r,); rings without any are left out."""
    order = np.argsort(np.concatenate([np.flatnonzero(~own), np.flatnonzero(own)]))
    kept = objects.ring_counts[~own]
    points = np.concatenate([objects.vertices[np.repeat(~own, objects.ring_counts)], vertices])
    all_counts = np.concatenate([kept, counts])
    starts = (np.cumsum(all_counts) - all_counts)[order]
    all_counts = all_counts[order]
    index = np.arange(all_counts.sum()) + np.repeat(starts - (np.cumsum(all_counts) - all_counts), all_counts)
    some = all_counts > 0
    return replace(
        objects, vertices=points[index], ring_counts=all_counts[some], ring_objects=objects.ring_objects[some]
    )


def move_points(points: Matrix, geometry: Matrix) -> Matrix:
    """Points (..., 2) through a homogeneous 3x3. Behind the horizon of a perspective, they are only far away."""
    through: Matrix = points @ geometry[:2, :2].T + geometry[:2, 2]
    if not is_affine(geometry):
        depth = points @ geometry[2, :2] + geometry[2, 2]
        through = through / np.maximum(depth, _HORIZON)[..., None]
    return through
