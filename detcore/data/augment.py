"""Augmentation as two small matrices per image: where its pixels go, and what colour they become.

Points are continuous: pixel (row i, column j) covers [j, j + 1) x [i, i + 1). Boxes and outlines go through the same
matrix as the pixels, so they move together by construction.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detcore.config.data import Affine, ColorJitter, HorizontalFlip, ResizeFixed, ResizeShortestEdge, Transform
from detcore.data.rings import flatten_rings
from detcore.data.rotated import move, upright

Matrix = NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in grey (ITU-R BT.601)."""

# The mean of every eighth pixel in both directions is close enough to the image's for contrast, at 1/64 of the time.
_MEAN_STRIDE = 8

# An object of which less than this share of its box is left in the image is no target.
_MIN_VISIBLE = 0.1


@dataclass(frozen=True)
class Draw:
    """What one image's pipeline came to.

    Attributes:
        geometry: (3, 3), from raw pixel coordinates to the network's, homogeneous.
        colour: (3, 4), applied to (R, G, B, 1) on the 0..255 scale.
        content_size: height and width that the image takes up.
    """

    geometry: Matrix
    colour: Matrix
    content_size: tuple[int, int]


@dataclass(frozen=True)
class PlacedObjects:
    """Objects of one image in pixels of the network's input.

    Attributes:
        boxes_xyxy: (n, 4).
        labels: (n,) int64.
        vertices: (v, 2), the rings' points one after the other.
        ring_counts: (r,) int64, points of each ring.
        ring_objects: (r,) int64, index of each ring's object; not falling.
        keypoints: (n, K, 3) x, y and visibility, or None.
        boxes_xywha: (n, 5), the angle in degrees, or None.
    """

    boxes_xyxy: Matrix
    labels: NDArray[np.int64]
    vertices: Matrix
    ring_counts: NDArray[np.int64]
    ring_objects: NDArray[np.int64]
    keypoints: Matrix | None = None
    boxes_xywha: Matrix | None = None


def num_size_choices(transforms: Sequence[Transform]) -> int:
    """How many combinations of sizes the resizes of a pipeline can draw."""
    return math.prod(len(t.sizes) for t in transforms if isinstance(t, ResizeShortestEdge))


def content_sizes(
    sizes: NDArray[np.int64], transforms: Sequence[Transform], choices: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Heights and widths that images of `sizes` (n, 2) have after a pipeline's resizes, as (n, 2).

    Args:
        sizes: (n, 2) heights and widths in pixels.
        transforms: the pipeline; only its resizes count.
        choices: (n,) in [0, num_size_choices(transforms)): which sizes are drawn.
    """
    for transform in transforms:
        match transform:
            case ResizeShortestEdge(sizes=options, max_size=max_size):
                edges = np.array(options)[choices % len(options)]
                choices = choices // len(options)
                sizes = _shortest_edge(sizes, edges, max_size)
            case ResizeFixed(height=height, width=width):
                sizes = np.broadcast_to(np.array([height, width]), sizes.shape)
    return sizes


def _shortest_edge(sizes: NDArray[np.int64], edges: NDArray[np.int64], max_size: int) -> NDArray[np.int64]:
    """The shorter side becomes `edges` (n,), or less where the longer one would exceed `max_size`; rounded half up."""
    shortest = sizes.min(axis=1, keepdims=True)
    exact = np.where(sizes == shortest, edges[:, None], sizes * (edges[:, None] / shortest))
    longest = exact.max(axis=1)
    exact = exact * np.where(longest > max_size, max_size / longest, 1.0)[:, None]
    return np.maximum((exact + 0.5).astype(np.int64), 1)


def scaling(old: tuple[int, int], new: tuple[int, int]) -> Matrix:
    """The matrix that resizes an image of height and width `old` to `new`."""
    return np.diag([new[1] / old[1], new[0] / old[0], 1.0])


def draw(
    transforms: Sequence[Transform],
    *,
    image: NDArray[np.uint8],
    choice: int,
    random: np.random.Generator,
    within: tuple[int, int],
) -> Draw:
    """Draws a pipeline's matrices for one image.

    Args:
        transforms: the pipeline, in order.
        image: (h, w, 3) RGB.
        choice: which of the pipeline's sizes, as in `content_sizes`.
        random: the sample's own stream.
        within: height and width of the batch. It was chosen from the image's size before a user's transform ran; an
            image that came out larger is shrunk into it.
    """
    size = (image.shape[0], image.shape[1])
    geometry, colour = np.eye(3), np.eye(3, 4)
    for transform in transforms:
        match transform:
            case ResizeShortestEdge() | ResizeFixed():
                resized = _resized(size, transform, choice)
                choice //= num_size_choices((transform,))
                geometry, size = scaling(size, resized) @ geometry, resized
            case HorizontalFlip(probability=probability):
                if random.random() < probability:
                    geometry = np.array([[-1.0, 0.0, size[1]], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]) @ geometry
            case Affine():
                geometry = _affine(transform, size, random) @ geometry
            case ColorJitter():
                colour = _jitter(transform, colour, image, random)
    if size[0] > within[0] or size[1] > within[1]:
        ratio = min(within[0] / size[0], within[1] / size[1])
        shrunk = (max(int(size[0] * ratio), 1), max(int(size[1] * ratio), 1))
        geometry, size = scaling(size, shrunk) @ geometry, shrunk
    return Draw(geometry, colour, size)


def _resized(size: tuple[int, int], transform: ResizeShortestEdge | ResizeFixed, choice: int) -> tuple[int, int]:
    height, width = content_sizes(np.array([size]), (transform,), np.array([choice]))[0].tolist()
    return height, width


def _affine(transform: Affine, size: tuple[int, int], random: np.random.Generator) -> Matrix:
    """Scale, shear and rotation about the centre, then a shift: always five draws, whatever the ranges."""
    turn, shear, shift_x, shift_y = random.uniform(-1.0, 1.0, 4).tolist()
    scale = random.uniform(*transform.scale)
    angle = math.radians(turn * transform.degrees)
    slant = math.tan(math.radians(shear * transform.shear_degrees))
    cos, sin = math.cos(angle), math.sin(angle)
    linear = scale * np.array([[cos, -sin], [sin, cos]]) @ np.array([[1.0, slant], [0.0, 1.0]])
    centre = np.array([size[1] / 2, size[0] / 2])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre - linear @ centre + np.array([shift_x * size[1], shift_y * size[0]]) * transform.translate
    return matrix


def _jitter(transform: ColorJitter, colour: Matrix, image: NDArray[np.uint8], random: np.random.Generator) -> Matrix:
    """Brightness scales, contrast mixes with the image's mean grey, saturation with a pixel's own; in this order."""
    ranges = np.array([transform.brightness, transform.contrast, transform.saturation])
    brightness, contrast, saturation = (1.0 + random.uniform(-1.0, 1.0, 3) * ranges).tolist()
    colour = colour * brightness
    if transform.contrast:
        mean = image[::_MEAN_STRIDE, ::_MEAN_STRIDE].mean(axis=(0, 1))
        grey = LUMA @ (colour[:, :3] @ mean + colour[:, 3])
        colour = colour * contrast
        colour[:, 3] += (1.0 - contrast) * grey
    mixing: Matrix = saturation * np.eye(3) + (1.0 - saturation) * LUMA
    return mixing @ colour


def place_objects(
    *,
    boxes_xyxy: Matrix,
    labels: NDArray[np.int64],
    polygons: Sequence[Sequence[Matrix]],
    placement: Draw,
    min_size: float,
    keypoints: Matrix | None = None,
    keypoint_flip: Sequence[int] = (),
    boxes_xywha: Matrix | None = None,
) -> PlacedObjects:
    """Moves one image's objects with its pixels, clips their boxes to the content and drops what is hardly left of any.

    Under rotation or shear a box becomes the extent of its object's moved outline where there is one, else of its moved
    corners. A box is dropped if a side is not above `min_size`, or if under a tenth of it lies inside the content.
    Outlines keep their parts outside: masks are read inside boxes only. Rotated boxes are not clipped: an object is
    dropped if its centre lies outside the content or a side is not above `min_size`. A keypoint outside the content is
    as one that is not labelled: 0, 0, 0.

    Args:
        boxes_xyxy: (n, 4) raw pixels; not read where there are rotated boxes.
        labels: (n,).
        polygons: rings (k, 2) of each object in raw pixels, n lists or none at all.
        placement: of the image.
        min_size: pixels of the network's input.
        keypoints: (n, K, 3), or None.
        keypoint_flip: which keypoint each one is in a mirrored image.
        boxes_xywha: (n, 5), or None.
    """
    geometry = placement.geometry
    vertices, ring_counts, ring_objects = flatten_rings(polygons)
    vertices = _move(vertices, geometry)
    edge = np.array(placement.content_size[::-1], np.float64)
    if boxes_xywha is None:
        low, high = _extents(boxes_xyxy, vertices, ring_counts, ring_objects, geometry)
        boxes = np.concatenate([low.clip(0.0, edge), high.clip(0.0, edge)], axis=1)
        sides = boxes[:, 2:] - boxes[:, :2]
        kept = (sides > min_size).all(axis=1) & (sides.prod(axis=1) >= _MIN_VISIBLE * (high - low).prod(axis=1))
    else:
        boxes_xywha = move(boxes_xywha, geometry)
        boxes, centre = upright(boxes_xywha), boxes_xywha[:, :2]
        kept = ((boxes_xywha[:, 2:4] > min_size) & (centre >= 0.0) & (centre < edge)).all(axis=1)
        boxes_xywha = boxes_xywha[kept]
    if keypoints is not None:
        keypoints = _move_keypoints(keypoints[kept], geometry, keypoint_flip, edge)
    ring_kept = kept[ring_objects]
    return PlacedObjects(
        boxes_xyxy=boxes[kept],
        labels=labels[kept],
        vertices=vertices[np.repeat(ring_kept, ring_counts)],
        ring_counts=ring_counts[ring_kept],
        ring_objects=(np.cumsum(kept) - 1)[ring_objects[ring_kept]],
        keypoints=keypoints,
        boxes_xywha=boxes_xywha,
    )


def _extents(
    boxes_xyxy: Matrix,
    vertices: Matrix,
    ring_counts: NDArray[np.int64],
    ring_objects: NDArray[np.int64],
    geometry: Matrix,
) -> tuple[Matrix, Matrix]:
    """The least and the greatest coordinates (n, 2) of moved boxes; the vertices have been moved already."""
    corners = _move(boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), geometry).reshape(-1, 4, 2)
    low, high = corners.min(axis=1), corners.max(axis=1)
    if len(vertices) and (geometry[0, 1] or geometry[1, 0]):
        outlined, first_ring = np.unique(ring_objects, return_index=True)
        first_vertex = (np.cumsum(ring_counts) - ring_counts)[first_ring]
        low[outlined] = np.minimum.reduceat(vertices, first_vertex)
        high[outlined] = np.maximum.reduceat(vertices, first_vertex)
    return low, high


def _move_keypoints(keypoints: Matrix, geometry: Matrix, flip: Sequence[int], edge: Matrix) -> Matrix:
    """Keypoints (n, K, 3) with the image; in a mirrored one left and right change places."""
    if np.linalg.det(geometry[:2, :2]) < 0:
        keypoints = keypoints[:, list(flip)]
    points, visibility = _move(keypoints[..., :2], geometry), keypoints[..., 2:]
    seen = (visibility > 0) & ((points >= 0.0) & (points < edge)).all(axis=-1, keepdims=True)
    return np.where(seen, np.concatenate([points, visibility], axis=-1), 0.0)


def _move(points: Matrix, geometry: Matrix) -> Matrix:
    """Points (..., 2) through an affine 3x3."""
    moved: Matrix = points @ geometry[:2, :2].T + geometry[:2, 2]
    return moved
