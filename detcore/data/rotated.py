"""Rotated boxes in NumPy: (cx, cy, w, h, angle), the angle in degrees, counter-clockwise as one sees the image.

With y pointing down, the width of a box runs along (cos, -sin) of its angle, and its height along (sin, cos).
"""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def half_axes(boxes_xywha: Array) -> tuple[Array, Array]:
    """The vectors (n, 2) from the centres of boxes (n, 5) to the middles of the sides along width and along height."""
    angle = np.radians(boxes_xywha[:, 4])
    cos, sin = np.cos(angle), np.sin(angle)
    along = boxes_xywha[:, 2:3] / 2 * np.stack([cos, -sin], axis=1)
    down = boxes_xywha[:, 3:4] / 2 * np.stack([sin, cos], axis=1)
    return along, down


def upright(boxes_xywha: Array) -> Array:
    """The upright boxes (n, 4), x0, y0, x1, y1, around rotated ones (n, 5)."""
    along, down = half_axes(boxes_xywha)
    reach = np.abs(along) + np.abs(down)
    return np.concatenate([boxes_xywha[:, :2] - reach, boxes_xywha[:, :2] + reach], axis=1)


def move(boxes_xywha: Array, geometry: Array) -> Array:
    """Boxes (n, 5) through an affine 3x3.

    Each becomes the box whose corners lie nearest, in the least squares, to its own moved corners; under resizes of one
    ratio, turns, shifts and mirrors these are the same. Of the two angles that such a box has, it gets that at which
    the direction of its height is nearer to where the map takes it, so a horizontal flip negates an angle.

    Args:
        boxes_xywha: (n, 5) float64.
        geometry: (3, 3), last row 0, 0, 1.
    """
    linear = geometry[:2, :2]
    along, down = (axis @ linear.T for axis in half_axes(boxes_xywha))
    # The corners are c ± along ± down and shall be c ± p e ± q e', e' being e turned by a right angle. The sum of
    # squares is least where (along . e)² + (down . e')² is greatest: at the first eigenvector of the matrix below.
    across = np.stack([down[:, 1], -down[:, 0]], axis=1)
    xx, yy = ((along**2 + across**2)[:, axis] for axis in (0, 1))
    xy = along[:, 0] * along[:, 1] + across[:, 0] * across[:, 1]
    turn = 0.5 * np.arctan2(2 * xy, xx - yy)
    unit = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    normal = np.stack([-unit[:, 1], unit[:, 0]], axis=1)
    width, height = np.abs((along * unit).sum(axis=1)), (down * normal).sum(axis=1)
    normal *= np.where(height < 0, -1.0, 1.0)[:, None]
    angle = np.degrees(np.arctan2(normal[:, 0], normal[:, 1]))
    centre = boxes_xywha[:, :2] @ linear.T + geometry[:2, 2]
    return np.column_stack([centre, 2 * width, 2 * np.abs(height), angle])


def smallest_box(corners: Array) -> Array:
    """The smallest rotated box around each quadrilateral: (n, 4, 2) -> (n, 5), the width its longer side.

    A smallest box has a side along one of the convex hull's, and those join two corners: all six pairs are tried.
    """
    first, second = np.triu_indices(4, k=1)
    sides = corners[:, second] - corners[:, first]
    length = np.linalg.norm(sides, axis=2, keepdims=True)
    unit = np.where(length > 0, sides / np.where(length > 0, length, 1.0), [1.0, 0.0])  # (n, 6, 2)
    normal = np.stack([-unit[..., 1], unit[..., 0]], axis=2)
    low, high = [], []
    for axis in (unit, normal):
        place = np.einsum("nkd,npd->nkp", axis, corners)
        low.append(place.min(axis=2))
        high.append(place.max(axis=2))
    extent = [top - bottom for top, bottom in zip(high, low, strict=True)]
    best = np.argmin(extent[0] * extent[1], axis=1)
    rows = np.arange(len(corners))
    unit, normal = unit[rows, best], normal[rows, best]
    middle = [((top + bottom) / 2)[rows, best][:, None] for top, bottom in zip(high, low, strict=True)]
    width, height = extent[0][rows, best], extent[1][rows, best]
    angle = np.degrees(np.arctan2(-unit[:, 1], unit[:, 0])) + np.where(height > width, 90.0, 0.0)
    boxes = np.column_stack(
        [unit * middle[0] + normal * middle[1], np.maximum(width, height), np.minimum(width, height), angle]
    )
    boxes[:, 4] = without_heading(boxes[:, 4])
    return boxes


def without_heading(angle_deg: Array) -> Array:
    """Angles within [-90, 90): a box and the same turned by 180 degrees cover the same."""
    return (angle_deg + 90.0) % 180.0 - 90.0
