"""Rings of outlines as flat arrays: out of nested lists, and clipped to rectangles."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detcore.ops import native

Points = NDArray[np.float64]
Indices = NDArray[np.int64]


def flatten_rings(objects: Sequence[Sequence[Any]]) -> tuple[Points, Indices, Indices]:
    """The rings of each object one after the other.

    Args:
        objects: the rings of each; a ring as an array (k, 2) or as COCO's list x0, y0, x1, y1, ...

    Returns:
        Points (n, 2) float64; how many of them each ring has, (r,) int64; the object of each ring, (r,) int64.

    Raises:
        ValueError: a ring that is not 3 or more finite points, by the number of its object.
    """
    host = native.host()
    if host is None:
        return flatten_rings_reference(objects)
    flat: tuple[Points, Indices, Indices] = host.flatten_rings(objects)
    return flat


def flatten_rings_reference(objects: Sequence[Sequence[Any]]) -> tuple[Points, Indices, Indices]:
    """`flatten_rings`, ring by ring."""
    rings = [np.zeros(0)]
    owners = []
    for index, own in enumerate(objects):
        for number, ring in enumerate(own):
            values = np.asarray(ring, np.float64).reshape(-1)
            if values.size < 6 or values.size % 2 or not np.isfinite(values).all():
                where = f"object {index}, ring {number}"
                raise ValueError(f"{where}: {values.size} numbers are not 3 or more finite points (x, y)")
            rings.append(values)
            owners.append(index)
    counts = np.array([ring.size // 2 for ring in rings[1:]], np.int64)
    return np.concatenate(rings).reshape(-1, 2), counts, np.array(owners, np.int64)


def clip_rings(vertices: Points, counts: Indices, rectangles_xyxy: Points) -> tuple[Points, Indices]:
    """Cuts each ring down to a rectangle, such as the crop that is left of an image.

    By Sutherland and Hodgman (Reentrant polygon clipping, 1974). Parts of a concave ring stay connected by lines along
    the rectangle's sides, which enclose nothing. A ring outside its rectangle has no points left.

    Args:
        vertices: (n, 2) float64, the points of one ring after the other.
        counts: (r,) int64, points of each ring.
        rectangles_xyxy: (r, 4) float64.

    Returns:
        Points (m, 2) float64 and how many of them each ring has, (r,) int64.

    Raises:
        ValueError: arrays that do not agree.
    """
    if vertices.shape != (int(counts.sum()), 2) or rectangles_xyxy.shape != (len(counts), 4):
        raise ValueError(
            f"clip_rings: {len(counts)} rings of {int(counts.sum())} points need as many vertices and rectangles, got "
            f"shapes {vertices.shape} and {rectangles_xyxy.shape}"
        )
    host = native.host()
    if host is None:
        return clip_rings_reference(vertices, counts, rectangles_xyxy)
    clipped: tuple[Points, Indices] = host.clip_rings(vertices, counts, rectangles_xyxy)
    return clipped


def clip_rings_reference(vertices: Points, counts: Indices, rectangles_xyxy: Points) -> tuple[Points, Indices]:
    """`clip_rings`, point by point."""
    ends = np.concatenate(([0], np.cumsum(counts))).tolist()
    pieces = [np.zeros((0, 2))]
    for (first, last), rectangle in zip(pairwise(ends), rectangles_xyxy.tolist(), strict=True):
        ring = vertices[first:last].tolist()
        for side, limit in enumerate(rectangle):
            ring = _one_side(ring, side % 2, 1 if side < 2 else -1, limit)
        pieces.append(np.array(ring, np.float64).reshape(-1, 2))
    return np.concatenate(pieces), np.array([len(piece) for piece in pieces[1:]], np.int64)


def _one_side(ring: list[list[float]], axis: int, sign: int, limit: float) -> list[list[float]]:
    """The part above the limit of x (axis 0) or y, or below it where sign is -1."""
    kept = []
    for a, b in zip(ring[-1:] + ring[:-1], ring, strict=True):
        if (sign * a[axis] >= sign * limit) != (sign * b[axis] >= sign * limit):
            share = (limit - a[axis]) / (b[axis] - a[axis])
            other = a[1 - axis] + share * (b[1 - axis] - a[1 - axis])
            kept.append([other, limit] if axis else [limit, other])
        if sign * b[axis] >= sign * limit:
            kept.append(b)
    return kept
