"""Matrices of linear colour changes: (3, 4) float64, applied to (R, G, B, 1) on the 0..255 scale."""

import numpy as np
from numpy.typing import NDArray

from detcore.config.transforms import ColorJitter, Lighting, Strength
from detcore.data.augmentation.geometry import Matrix

LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of R, G and B in grey (ITU-R BT.601)."""

_COMPONENTS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]) * np.array(
    [0.2175, 0.0188, 0.0045]
)
"""Principal components of the colours of ImageNet's pixels on the scale 0..1, as columns times their eigenvalues."""

_MEAN_POINTS = 32
"""So many rows and columns at least tell an image's mean colour: near enough for contrast."""


def jitter(transform: ColorJitter, image: NDArray[np.uint8], seen: Matrix, random: np.random.Generator) -> Matrix:
    """A drawn jitter of an image (h, w, 3) whose colours `seen` has already changed."""
    ranges = np.array([_ends(s) for s in (transform.brightness, transform.contrast, transform.saturation)])
    brightness, contrast, saturation = random.uniform(ranges[:, 0], ranges[:, 1]).tolist()
    colour = brightness * np.eye(3, 4)
    if transform.contrast:
        mean = seen[:, :3] @ _mean(image) + seen[:, 3]
        colour *= contrast
        colour[:, 3] = (1.0 - contrast) * brightness * (LUMA @ mean)
    mixing: Matrix = saturation * np.eye(3) + (1.0 - saturation) * LUMA
    jittered: Matrix = mixing @ colour
    return jittered


def _mean(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """About the mean (3,) of an image's pixels."""
    step = max(min(image.shape[:2]) // _MEAN_POINTS, 1)
    points = image[::step, ::step]
    total: NDArray[np.float64] = np.einsum("ijk->k", points, dtype=np.float64)
    mean: NDArray[np.float64] = total / (points.shape[0] * points.shape[1])
    return mean


def _ends(strength: Strength) -> tuple[float, float]:
    return strength if isinstance(strength, tuple) else (1.0 - strength, 1.0 + strength)


def lighting(transform: Lighting, random: np.random.Generator) -> Matrix:
    """A drawn shift along the principal components."""
    lit = np.eye(3, 4)
    lit[:, 3] = 255.0 * (_COMPONENTS @ random.normal(0.0, transform.std, 3))
    return lit


def then(first: Matrix, second: Matrix) -> Matrix:
    """One colour matrix after another, as one."""
    both: Matrix = second[:, :3] @ first
    both[:, 3] += second[:, 3]
    return both
