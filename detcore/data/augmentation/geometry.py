"""Matrices of single geometric transforms: (3, 3) float64, homogeneous, from pixels before to pixels after."""

import math

import numpy as np
from numpy.typing import NDArray

from detcore.config.transforms import Affine, Extent, Rotate

Matrix = NDArray[np.float64]
Size = tuple[int, int]
"""Height and width in pixels."""


def scaling(old: Size | tuple[float, float], new: Size) -> Matrix:
    """The matrix that resizes an image of height and width `old` to `new`."""
    return np.diag([new[1] / old[1], new[0] / old[0], 1.0])


def shift(x: float, y: float) -> Matrix:
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def mirror_x(width: int) -> Matrix:
    """Left and right change places."""
    return np.array([[-1.0, 0.0, width], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def mirror_y(height: int) -> Matrix:
    """Top and bottom change places."""
    return np.array([[1.0, 0.0, 0.0], [0.0, -1.0, height], [0.0, 0.0, 1.0]])


def turn(angle_deg: float, about: tuple[float, float], to: tuple[float, float]) -> Matrix:
    """A turn, counter-clockwise as one sees it, that takes the point `about` (x, y) to the point `to`."""
    angle = math.radians(angle_deg)
    cos, sin = math.cos(angle), math.sin(angle)
    return _about(np.array([[cos, sin], [-sin, cos]]), about, to)


def rotation(transform: Rotate, size: Size, random: np.random.Generator) -> Matrix:
    """A drawn rotation that leaves the canvas as it is."""
    least, greatest = transform.centre
    across, down = random.uniform(least, greatest).tolist()
    if transform.sample == "range":
        angle = random.uniform(transform.degrees[0], transform.degrees[1])
    else:
        angle = transform.degrees[int(random.integers(len(transform.degrees)))]
    centre = (across * size[1], down * size[0])
    return turn(angle, centre, centre)


def extent(transform: Extent, size: Size, scale: float, new: Size, random: np.random.Generator) -> Matrix:
    """The matrix that makes a part of `scale` times the image's size an image of size `new`."""
    across, down = random.uniform(-0.5, 0.5, 2).tolist()
    height, width = scale * size[0], scale * size[1]
    left = (size[1] - width) / 2 + across * transform.shift[0] * size[1]
    top = (size[0] - height) / 2 + down * transform.shift[1] * size[0]
    return scaling((height, width), new) @ shift(-left, -top)


def affine(transform: Affine, size: Size, random: np.random.Generator) -> Matrix:
    """Scale, shear and rotation about the centre, a shift, and a perspective about where the centre came to lie."""
    angle, shear, shift_x, shift_y = random.uniform(-1.0, 1.0, 4).tolist()
    scale = random.uniform(*transform.scale)
    radians = math.radians(angle * transform.degrees)
    slant = math.tan(math.radians(shear * transform.shear_degrees))
    cos, sin = math.cos(radians), math.sin(radians)
    linear = scale * np.array([[cos, -sin], [sin, cos]]) @ np.array([[1.0, slant], [0.0, 1.0]])
    centre = size[1] / 2, size[0] / 2
    tilt = random.uniform(-transform.perspective, transform.perspective, 2) if transform.perspective else np.zeros(2)
    to = centre[0] + shift_x * size[1] * transform.translate, centre[1] + shift_y * size[0] * transform.translate
    matrix = _about(linear, centre, to)
    if tilt.any():
        # Depth is 1 at the centre, and grows or falls by up to half of each tilt towards the sides.
        tilted = np.eye(3)
        tilted[2, :2] = tilt / [size[1], size[0]]
        matrix = shift(*to) @ tilted @ shift(-to[0], -to[1]) @ matrix
    return matrix


def is_affine(geometry: Matrix) -> bool:
    """Whether it has no perspective. Asked several times of every image, so numpy's reductions would be felt."""
    return bool(geometry[2].tolist() == [0.0, 0.0, 1.0])


def _about(linear: Matrix, about: tuple[float, float], to: tuple[float, float]) -> Matrix:
    """A linear map (2, 2) about one point, then a shift of that point to another."""
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = np.array(to) - linear @ np.array(about)
    return matrix
