"""The sizes that a pipeline gives images. They are drawn before an image is read, so that its bucket is known.

All that an image's size depends on is one whole number, its choice: the digits of a number whose base changes from
digit to digit, the first transform's first.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detcore.config.transforms import (
    Extent,
    FixedSizeCrop,
    Mosaic,
    RandomCrop,
    ResizeFixed,
    ResizeScale,
    ResizeShortestEdge,
    Rotate,
    Transform,
)

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_STEPS = 256
"""So many values are drawn from a continuous range that decides on a size."""

_MOST_CHOICES = 2**53
"""Choices are drawn as float64 times their number."""

_PLANNED_CHOICES = 32


def num_size_choices(transforms: Iterable[Transform]) -> int:
    """How many combinations of sizes a pipeline can draw.

    Raises:
        ValueError: too many for a float64 to tell apart.
    """
    number = math.prod(radix for transform in transforms for radix in _radices(transform))
    if number > _MOST_CHOICES:
        raise ValueError("train_transforms: too many transforms that draw a size: at most six draws from ranges")
    return number


def planned_choices(number: int) -> Integers:
    """Choices to plan buckets for: all of `number`, or where there are many, the last and some between, as (k,)."""
    if number <= _PLANNED_CHOICES:
        return np.arange(number)
    between = np.random.default_rng(0).integers(number, size=_PLANNED_CHOICES - 1)
    return np.append(between, number - 1)


def content_sizes(sizes: Integers, transforms: Sequence[Transform], choices: Integers) -> Integers:
    """Heights and widths that images of `sizes` (n, 2) have after a pipeline, as (n, 2).

    A `MinIoUCrop` depends on an image's objects and is left out: what follows it may come out smaller or of another
    aspect ratio.

    Args:
        sizes: (n, 2) heights and widths in pixels.
        transforms: the pipeline.
        choices: (n,) in [0, num_size_choices(transforms)): which sizes are drawn.
    """
    for transform in transforms:
        digits, choices = take_digits(transform, choices)
        sizes = sizes_after(transform, sizes, digits)
    return sizes


def take_digits(transform: Transform, choices: Integers) -> tuple[list[Integers], Integers]:
    """The digits (n,) of a transform from choices (n,), and what is left for those after it."""
    digits = []
    for radix in _radices(transform):
        digits.append(choices % radix)
        choices = choices // radix
    return digits, choices


def _radices(transform: Transform) -> tuple[int, ...]:
    match transform:
        case ResizeShortestEdge(sample="range", sizes=(low, high)):
            return (high - low + 1,)
        case ResizeShortestEdge(sizes=sizes):
            return (len(sizes),)
        case ResizeScale() | Extent():
            return (_STEPS,)
        case RandomCrop(mode="relative_range" | "absolute_range"):
            return (_STEPS, _STEPS, *_chance(transform.probability))
        case RandomCrop():
            return _chance(transform.probability)
        case Rotate(expand=True, sample=sample, degrees=degrees):
            return (_STEPS if sample == "range" else len(degrees), *_chance(transform.probability))
    return ()


def _chance(probability: float) -> tuple[int, ...]:
    return (_STEPS,) if 0.0 < probability < 1.0 else ()


def _happens(probability: float, digits: list[Integers], like: Integers) -> NDArray[np.bool_]:
    """Where a transform of this probability, of which these are the digits, is carried out: (n,)."""
    if _chance(probability):
        happens: NDArray[np.bool_] = (digits[-1] + 0.5) / _STEPS < probability
        return happens
    return np.full(len(like), probability > 0.0)


def sizes_after(transform: Transform, sizes: Integers, digits: list[Integers]) -> Integers:
    """Sizes (n, 2) after a transform that got these digits."""
    match transform:
        case ResizeShortestEdge(sizes=options, max_size=max_size, sample=sample):
            edges = options[0] + digits[0] if sample == "range" else np.array(options)[digits[0]]
            return _shortest_edge(sizes, edges, max_size)
        case ResizeFixed(height=height, width=width) | FixedSizeCrop(height=height, width=width):
            return np.broadcast_to(np.array([height, width]), sizes.shape)
        case Mosaic(height=height, width=width):
            return np.broadcast_to(np.array([height, width]), sizes.shape)
        case ResizeScale(height=height, width=width):
            within = np.array([height, width]) * _between(transform.scale, digits[0])[:, None]
            return _rounded(sizes * (within / sizes).min(axis=1, keepdims=True))
        case Extent():
            return _rounded(sizes * extent_scale(transform, digits)[:, None])
        case RandomCrop():
            happens = _happens(transform.probability, digits, sizes)
            return np.where(happens[:, None], _cropped(transform, sizes, digits), sizes)
        case Rotate(expand=True):
            angle = np.radians(expanding_angle(transform, digits, sizes))
            cos, sin = np.abs(np.cos(angle))[:, None], np.abs(np.sin(angle))[:, None]
            return _rounded(sizes * cos + sizes[:, ::-1] * sin)
    return sizes


def extent_scale(transform: Extent, digits: list[Integers]) -> Floats:
    """(n,) drawn scales."""
    return _between(transform.scale, digits[0])


def expanding_angle(transform: Rotate, digits: list[Integers], sizes: Integers) -> Floats:
    """(n,) drawn angles in degrees of a rotation that expands; 0 where it is not carried out."""
    if transform.sample == "range":
        angle = _between((transform.degrees[0], transform.degrees[1]), digits[0])
    else:
        angle = np.array(transform.degrees)[digits[0]]
    return np.where(_happens(transform.probability, digits, sizes), angle, 0.0)


def _cropped(transform: RandomCrop, sizes: Integers, digits: list[Integers]) -> Integers:
    low, high = transform.size
    match transform.mode:
        case "relative":
            return _rounded(sizes * np.array(transform.size))
        case "absolute":
            return np.minimum(sizes, _rounded(np.array(transform.size)))
        case "relative_range":
            shares = [_between((least, 1.0), digit) for least, digit in zip(transform.size, digits, strict=False)]
            return _rounded(sizes * np.stack(shares, axis=1))
        case "absolute_range":
            least, greatest = np.minimum(sizes, int(low)), np.minimum(sizes, int(high))
            share = np.stack(digits[:2], axis=1) / _STEPS
            spread: Integers = least + (share * (greatest - least + 1)).astype(np.int64)
            return spread


def _between(ends: tuple[float, float], digit: Integers) -> Floats:
    low, high = ends
    spread: Floats = low + (high - low) * (digit / (_STEPS - 1))
    return spread


def _rounded(sizes: NDArray[Any]) -> Integers:
    """Rounded half up, and at least 1."""
    return np.maximum((sizes + 0.5).astype(np.int64), 1)


def _shortest_edge(sizes: Integers, edges: Integers, max_size: int) -> Integers:
    """The shorter side becomes `edges` (n,), or less where the longer one would exceed `max_size`."""
    shortest = sizes.min(axis=1, keepdims=True)
    exact = np.where(sizes == shortest, edges[:, None], sizes * (edges[:, None] / shortest))
    longest = exact.max(axis=1)
    return _rounded(exact * np.where(longest > max_size, max_size / longest, 1.0)[:, None])
