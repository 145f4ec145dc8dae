"""Outlines of masks: run lengths to pixels, pixels to rings, rings to pixels."""

import numpy as np
from numpy.typing import NDArray

from detcore.ops import native

_RIGHT = np.array([1, 0, -1, 0])  # the four directions, clockwise on the screen: right, down, left, up
_DOWN = np.array([0, 1, 0, -1])

_FARTHEST = 1e5
"""Points of rings farther away, in pixels, are filled as if they were no farther."""


def decode_runs(counts: str) -> NDArray[np.int64]:
    """Run lengths from COCO's compressed string: six bits a character, lowest first, differences to the run two before.

    Raises:
        ValueError: a character outside the code, or a number that does not end.
    """
    host = native.host()
    runs: NDArray[np.int64] | None = None if host is None else host.decode_runs(counts)
    return decode_runs_reference(counts) if runs is None else runs


def decode_runs_reference(counts: str) -> NDArray[np.int64]:
    """`decode_runs`, character by character; it also says what is wrong with a string."""
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if shift >= 60:
            raise ValueError("run-length counts hold a number beyond any image")
        if not 0 <= bits < 64:
            raise ValueError(f"character {character!r} in run-length counts")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("run-length counts end within a number")
    if any(abs(run) >= 1 << 62 for run in runs):
        raise ValueError("run-length counts hold a number beyond any image")
    return np.array(runs, np.int64)


def decode_mask(runs: NDArray[np.int64], *, height: int, width: int) -> NDArray[np.bool_]:
    """Run lengths, down the columns and beginning with background, to (height, width) bool.

    Raises:
        ValueError: runs that are negative or do not sum up to the size.
    """
    total = sum(runs.tolist())  # Python's integers do not overflow: hostile runs could sum up to anything
    if (runs < 0).any() or total != height * width:
        raise ValueError(f"run lengths of {total} pixels in a mask of {height} x {width}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def trace_outline(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The outer contours of a mask as rings of (k, 2) float64 points (x, y), one a 4-connected region.

    The rings run along pixel edges, so filled they give back the very mask, but for its holes, which are filled too.

    Args:
        mask: (height, width) bool.
    """
    host = native.host()
    if host is None:
        return trace_outline_reference(mask)
    rings: list[NDArray[np.float64]] = host.trace_outline(mask)
    return rings


def trace_outline_reference(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """`trace_outline` by following the sides of all pixels at once."""
    padded = np.pad(mask, 1)
    # The four pixels about each corner of the pixel grid, and the directed sides of the boundary that start there, with
    # the mask on their right hand: along the top of a pixel rightwards, then down, left and up around it.
    north_west, north_east = padded[:-1, :-1], padded[:-1, 1:]
    south_west, south_east = padded[1:, :-1], padded[1:, 1:]
    sides = np.stack(
        [south_east & ~north_east, south_west & ~south_east, north_west & ~south_west, north_east & ~north_west]
    )
    direction, row, column = np.nonzero(sides)
    number = np.full(sides.shape, -1)
    number[direction, row, column] = np.arange(len(row))
    end_row, end_column = row + _DOWN[direction], column + _RIGHT[direction]
    following = np.full(len(row), -1)
    # Where two regions touch by a corner, a turn to the right keeps to the same region: the last that fits stays.
    for turn in (3, 0, 1):
        candidate = number[(direction + turn) % 4, end_row, end_column]
        following = np.where(candidate >= 0, candidate, following)
    corner = direction[following] != direction  # only where the boundary turns
    points = np.stack([end_column, end_row], axis=1).astype(np.float64)
    rings = [points[side][corner[side]] for side in _cycles(following.tolist())]
    return [ring for ring in rings if _signed_area(ring) > 0]  # holes run the other way round


def _cycles(following: list[int]) -> list[NDArray[np.int64]]:
    """The cycles of a permutation, by their lowest member."""
    seen = bytearray(len(following))
    cycles = []
    for start in range(len(following)):
        cycle = []
        at = start
        while not seen[at]:
            seen[at] = 1
            cycle.append(at)
            at = following[at]
        if cycle:
            cycles.append(np.array(cycle))
    return cycles


def outline_without_holes(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Rings whose union, filled, is the very mask: a region with a hole is cut through it from top to bottom."""
    rings = trace_outline(mask)
    counts = np.array([len(ring) for ring in rings], np.int64)
    if sum(ring_area(ring) for ring in rings) == mask.sum():
        return rings
    holes = fill_rings(np.concatenate(rings), counts, mask.shape) & ~mask
    column = int(np.flatnonzero(holes.any(axis=0))[0])  # within the right part the hole is open to the left
    right = [ring + np.array([column, 0.0]) for ring in outline_without_holes(mask[:, column:])]
    return outline_without_holes(mask[:, :column]) + right


def fill_rings(vertices: NDArray[np.float64], counts: NDArray[np.int64], size: tuple[int, ...]) -> NDArray[np.bool_]:
    """The union of filled rings as a mask, pixel for pixel that of COCO's tools.

    Args:
        vertices: (n, 2), the points of one ring after the other; those outside the mask count too.
        counts: (r,) points of each ring.
        size: height and width of the mask.
    """
    from pycocotools import mask as coco_mask

    ends = np.cumsum(counts)
    # Its rasteriser walks along an outline step by step.
    flat = vertices.clip(-_FARTHEST, _FARTHEST)
    rings = [flat[last - count : last].reshape(-1) for last, count in zip(ends, counts, strict=True) if count > 2]
    if not rings or 0 in size:
        return np.zeros(size, np.bool_)
    encoded = coco_mask.merge(coco_mask.frPyObjects(rings, *size))
    filled: NDArray[np.bool_] = coco_mask.decode(encoded).view(np.bool_)
    return filled


def simplify_ring(ring: NDArray[np.float64], *, tolerance: float) -> NDArray[np.float64]:
    """Fewer points, none of those left out farther than `tolerance` from the new ring (Douglas and Peucker, 1973)."""
    far = int(np.argmax(((ring - ring[0]) ** 2).sum(axis=1)))
    closed = np.concatenate([ring, ring[:1]])
    kept = np.zeros(len(closed), np.bool_)
    kept[[0, far]] = True
    spans = [(0, far), (far, len(ring))]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        distance = _distance_to_segment(closed[first + 1 : last], closed[first], closed[last])
        farthest = int(np.argmax(distance))
        if distance[farthest] > tolerance:
            middle = first + 1 + farthest
            kept[middle] = True
            spans += [(first, middle), (middle, last)]
    return closed[:-1][kept[:-1]]


def _distance_to_segment(
    points: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    along = end - start
    length = float(along @ along)
    share = ((points - start) @ along / length).clip(0, 1) if length else np.zeros(len(points))
    distance: NDArray[np.float64] = np.linalg.norm(points - start - share[:, None] * along, axis=1)
    return distance


def ring_area(ring: NDArray[np.float64]) -> float:
    """The area that a ring of (k, 2) points encloses, in square pixels."""
    with np.errstate(invalid="ignore", over="ignore"):  # rings that are not finite have no area
        return abs(_signed_area(ring))


def _signed_area(ring: NDArray[np.float64]) -> float:
    x, y = ring[:, 0], ring[:, 1]
    return float(x @ np.roll(y, -1) - np.roll(x, -1) @ y) / 2
