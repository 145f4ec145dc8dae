"""Steps on finished pixels: what is no matrix. Each is drawn with an image's matrices and carried out on its device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detcore.config.transforms import GaussianBlur, GaussianNoise, HSVJitter, Pointwise, RandomErasing
from detcore.ops import keyed_uniform

_ROWS = 64
"""So many rows at a time stay in a CPU's cache while they are changed."""

_BLUR_REACH = 3.0
"""A blur's window reaches so many standard deviations to each side."""


@dataclass(frozen=True)
class ShiftHSV:
    """Hue is turned by `hue` turns, saturation and value are scaled and cut off at their ends."""

    hue: float
    saturation: float
    value: float


@dataclass(frozen=True)
class Blur:
    sigma: float


@dataclass(frozen=True)
class Noise:
    """`std` on the 0..255 scale; `key` keys its numbers."""

    std: float
    key: int


@dataclass(frozen=True)
class Erase:
    """Rectangles (y0, x0, y1, x1) as shares of height and width become the mean colour."""

    rectangles: tuple[tuple[float, float, float, float], ...]


Step = ShiftHSV | Blur | Noise | Erase


def drawn_step(transform: Pointwise, random: np.random.Generator) -> Step:
    """What one image gets."""
    match transform:
        case HSVJitter(hue=hue, saturation=saturation, value=value):
            turns, *factors = random.uniform(-1.0, 1.0, 3) * [hue, saturation, value]
            return ShiftHSV(float(turns), 1.0 + float(factors[0]), 1.0 + float(factors[1]))
        case GaussianBlur(sigma=sigma):
            return Blur(random.uniform(*sigma))
        case GaussianNoise(std=std):
            return Noise(random.uniform(0.0, std), int(random.integers(2**63)))
        case RandomErasing(count=count):
            return Erase(tuple(_rectangle(transform, random) for _ in range(count)))


def _rectangle(transform: RandomErasing, random: np.random.Generator) -> tuple[float, float, float, float]:
    """Shares of a square image: the aspect ratio is that of the shares."""
    area = random.uniform(*transform.area)
    least, greatest = transform.aspect
    aspect = math.exp(random.uniform(math.log(least), math.log(greatest)))
    height, width = min(math.sqrt(area * aspect), 1.0), min(math.sqrt(area / aspect), 1.0)
    top, left = random.uniform(0.0, 1.0 - height), random.uniform(0.0, 1.0 - width)
    return top, left, top + height, left + width


def apply_steps(pixels: Tensor, steps: Sequence[Step], *, mean: Sequence[float], std: Sequence[float]) -> None:
    """Carries steps out in place.

    Args:
        pixels: (3, h, w) float, the content of one image, less `mean` and divided by `std`; any strides.
        steps: in their order.
        mean, std: of R, G and B on the 0..255 scale.
    """
    if not steps:
        return
    centre, spread = (torch.tensor(tuple(v), device=pixels.device)[:, None, None] for v in (mean, std))
    levels = torch.addcmul(centre, pixels.to(torch.float32, memory_format=torch.contiguous_format), spread)
    for step in steps:
        match step:
            case ShiftHSV():
                for rows in torch.split(levels, _ROWS if levels.device.type == "cpu" else levels.shape[1], dim=1):
                    _shift_hsv(rows, step)
            case Blur(sigma=sigma):
                levels = _blur(levels, sigma)
            case Noise(std=deviation, key=key):
                levels = levels + deviation * _normal(levels, key)
            case Erase(rectangles=rectangles):
                for rectangle in rectangles:
                    y0, x0, y1, x1 = (round(s * n) for s, n in zip(rectangle, levels.shape[1:] * 2, strict=True))
                    levels[:, y0:y1, x0:x1] = centre
    pixels.copy_(levels.clamp(0.0, 255.0).sub_(centre).div_(spread))


def _shift_hsv(levels: Tensor, step: ShiftHSV) -> None:
    """(3, h, w) on the 0..255 scale, in place. The hexcone of Smith (Color gamut transform pairs, 1978).

    A channel of a colour of hue H (in sixths), saturation S and value V is V - V S clamp(min(k, 4 - k), 0, 1) with
    k = n + H modulo 6 and n = 5, 3, 1 for R, G, B.
    """
    red, green, blue = levels.clamp_(0.0, 255.0)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # The hue is told by the difference of the two smaller channels, from the greatest one on.
    turned = torch.where(value == green, blue - red + 2.0 * chroma, red - green + 4.0 * chroma)
    turned = torch.where(value == red, green - blue, turned)
    sixths = turned.div_(chroma.clamp(min=1e-6)).add_(6.0 * step.hue)
    depth = (chroma.mul_(step.saturation) / value.clamp(min=1e-6)).clamp_(max=1.0)
    value = value.mul_(step.value).clamp_(max=255.0)
    depth.mul_(value)
    for channel, offset in zip(levels, (5.0, 3.0, 1.0), strict=True):
        k = sixths + offset
        k -= 6.0 * (k / 6.0).floor_()
        torch.minimum(k, 4.0 - k, out=k).clamp_(0.0, 1.0)
        torch.addcmul(value, depth, k, value=-1.0, out=channel)


def _blur(levels: Tensor, sigma: float) -> Tensor:
    """(3, h, w), the border repeated."""
    reach = min(max(1, math.ceil(_BLUR_REACH * sigma)), min(levels.shape[1:]) - 1)
    if reach < 1:
        return levels
    taps = torch.arange(-reach, reach + 1, device=levels.device, dtype=torch.float32)
    weights = torch.softmax(-0.5 * (taps / sigma) ** 2, dim=0)
    for axis in (1, 2):
        index = torch.arange(-reach, levels.shape[axis] + reach, device=levels.device).clamp(0, levels.shape[axis] - 1)
        padded, length = levels.index_select(axis, index), levels.shape[axis]
        levels = torch.zeros_like(levels)
        for at, weight in enumerate(weights.tolist()):
            levels.add_(padded.narrow(axis, at, length), alpha=weight)
    return levels


def _normal(like: Tensor, key: int) -> Tensor:
    """Standard normal numbers, the same on every device but for rounding (Box and Muller, 1958)."""
    places = torch.arange(like.numel(), device=like.device)
    image = torch.zeros(1, dtype=torch.int64, device=like.device)
    first, second = (keyed_uniform(key, 0, image, site, places)[0] for site in (0, 1))
    radius = (-2.0 * torch.log1p(-first)).sqrt_()
    return (radius * torch.cos(2.0 * math.pi * second)).view(like.shape)
