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

# The mean of every eighth pixel in both directions is close enough to the image's for contrast, at 1/64 of the time.
_MEAN_STRIDE = 8


def jitter(transform: ColorJitter, image: NDArray[np.uint8], seen: Matrix, random: np.random.Generator) -> Matrix:
    """A drawn jitter of an image (h, w, 3) whose colours `seen` has already changed."""
    ranges = np.array([_ends(s) for s in (transform.brightness, transform.contrast, transform.saturation)])
    brightness, contrast, saturation = random.uniform(ranges[:, 0], ranges[:, 1]).tolist()
    colour = brightness * np.eye(3, 4)
    if transform.contrast:
        mean = seen[:, :3] @ image[::_MEAN_STRIDE, ::_MEAN_STRIDE].mean(axis=(0, 1)) + seen[:, 3]
        colour *= contrast
        colour[:, 3] = (1.0 - contrast) * brightness * (LUMA @ mean)
    mixing: Matrix = saturation * np.eye(3) + (1.0 - saturation) * LUMA
    jittered: Matrix = mixing @ colour
    return jittered


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
