"""Colours as matrices, and the steps on finished pixels."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from scipy.ndimage import gaussian_filter1d

from detcore.config.transforms import (
    ColorJitter,
    GaussianBlur,
    GaussianNoise,
    HSVJitter,
    Lighting,
    RandomErasing,
    ResizeFixed,
)
from detcore.data.augmentation.colours import jitter
from detcore.data.augmentation.pointwise import Blur, Erase, Noise, ShiftHSV, apply_steps, drawn_step
from pipelines import picture_of, run, seen

RESIZE = ResizeFixed(height=64, width=64)


def mid_greys(seed):
    """Blocks of colours that no jitter here takes to 0 or 255."""
    blocks = np.random.default_rng(seed).integers(100, 150, (8, 8, 3)).astype(np.uint8)
    return np.repeat(np.repeat(blocks, 8, axis=0), 8, axis=1)


@pytest.mark.parametrize("seed", range(4))
def test_colours_equal_pils(seed):
    """Pillow's ImageEnhance, one after the other; it cuts to whole levels."""
    image = mid_greys(seed)
    transform = ColorJitter(brightness=0.3, contrast=(0.6, 1.4), saturation=0.5)
    matrix = jitter(transform, image, np.eye(3, 4), np.random.default_rng(seed))
    factors = np.random.default_rng(seed).uniform([0.7, 0.6, 0.5], [1.3, 1.4, 1.5])
    expected = Image.fromarray(image)
    for enhance, factor in zip(
        (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color), factors, strict=True
    ):
        expected = enhance(expected).enhance(factor)
    levels = image @ matrix[:, :3].T + matrix[:, 3]
    np.testing.assert_allclose(levels, np.asarray(expected), atol=4.0)
    assert abs(levels - image).max() > 10


def test_contrast_looks_at_the_colours_as_they_are_by_then():
    """Two jitters one after the other are those of the image that the first one made."""
    image = mid_greys(0)
    transforms = (ColorJitter(brightness=(0.7, 0.7)), ColorJitter(contrast=(1.3, 1.3)))
    both = seen(run((RESIZE, *transforms), picture_of(image))[0])
    first = seen(run((RESIZE, transforms[0]), picture_of(image))[0])
    second = seen(run((RESIZE, transforms[1]), picture_of(first.round().astype(np.uint8)))[0])
    np.testing.assert_allclose(both, second, atol=1.0)


def test_lighting_shifts_all_pixels_alike():
    """Krizhevsky et al.: its covariance is P D P^T, D the squares of std times the eigenvalues."""
    image = mid_greys(1)
    shifts = []
    for seed in range(500):
        difference = seen(run((RESIZE, Lighting(std=0.1)), picture_of(image), seed=seed)[0]) - image
        assert np.ptp(difference, axis=(0, 1)).max() < 1e-3
        shifts.append(difference[0, 0])
    spread = np.sqrt(np.linalg.eigvalsh(np.cov(np.array(shifts).T)))
    np.testing.assert_allclose(spread, 25.5 * np.array([0.0045, 0.0188, 0.2175]), rtol=0.15)


def test_probability_of_a_jitter():
    image = mid_greys(2)
    changed = [
        abs(seen(run((RESIZE, Lighting(std=1.0, probability=0.3)), picture_of(image), seed=seed)[0]) - image).max() > 0
        for seed in range(200)
    ]
    assert 0.2 < np.mean(changed) < 0.4


def apply(levels, *steps):
    """(3, h, w) on the 0..255 scale, normalised on the way."""
    mean, std = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
    centre, spread = (torch.tensor(values)[:, None, None] for values in (mean, std))
    pixels = (torch.as_tensor(levels).float() - centre) / spread
    apply_steps(pixels, steps, mean=mean, std=std)
    return pixels * spread + centre


@pytest.mark.parametrize("seed", range(3))
def test_hsv_equals_pythons(seed):
    random = np.random.default_rng(seed)
    levels = random.integers(0, 256, (3, 9, 9)).astype(np.float32)
    levels[:, 0] = levels[:1, 0]  # grey, for which hue means nothing
    step = ShiftHSV(random.uniform(-0.5, 0.5), random.uniform(0.3, 1.7), random.uniform(0.6, 1.4))
    expected = np.empty_like(levels)
    for row, column in np.ndindex(9, 9):
        hue, saturation, value = colorsys.rgb_to_hsv(*levels[:, row, column].astype(float) / 255)
        changed = (hue + step.hue) % 1, min(saturation * step.saturation, 1), min(value * step.value, 1)
        expected[:, row, column] = 255 * np.array(colorsys.hsv_to_rgb(*changed))
    np.testing.assert_allclose(apply(levels, step), expected, atol=0.01)


def test_blur_equals_scipys():
    levels = np.random.default_rng(0).uniform(0, 255, (3, 30, 20))
    expected = levels
    for axis in (1, 2):
        expected = gaussian_filter1d(expected, 1.5, axis=axis, mode="nearest", radius=5)
    np.testing.assert_allclose(apply(levels, Blur(1.5)), expected, atol=0.01)
    np.testing.assert_allclose(apply(levels[:, :1, :1], Blur(1.5)), levels[:, :1, :1], atol=0.01)


def test_noise_is_normal_and_keyed():
    levels = np.full((3, 200, 200), 128.0)
    first, again, other = (apply(levels, Noise(10.0, key)) - 128.0 for key in (1, 1, 2))
    assert torch.equal(first, again)
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1])) < 0.02
    assert abs(float(first.mean())) < 0.2 and abs(float(first.std()) - 10) < 0.2
    assert 0.66 < float((first.abs() < 10).float().mean()) < 0.70  # 68.3 % within one deviation


def test_erased_rectangles_become_the_mean_colour():
    levels = np.zeros((3, 40, 80))
    erased = apply(levels, Erase(((0.25, 0.5, 0.5, 0.75),)))
    inside = np.zeros((40, 80), bool)
    inside[10:20, 40:60] = True
    np.testing.assert_allclose(erased.numpy()[:, inside].T, np.tile([120, 110, 100], (200, 1)), atol=1e-3)
    np.testing.assert_allclose(erased.numpy()[:, ~inside], 0, atol=1e-3)


def test_steps_are_drawn_within_their_ranges():
    random = np.random.default_rng(0)
    hsv = [drawn_step(HSVJitter(hue=0.1, saturation=0.5, value=0.2), random) for _ in range(200)]
    for values, middle, reach in (
        ([step.hue for step in hsv], 0.0, 0.1),
        ([step.saturation for step in hsv], 1.0, 0.5),
        ([step.value for step in hsv], 1.0, 0.2),
    ):
        assert middle - reach <= min(values) < middle - 0.8 * reach
        assert middle + 0.8 * reach < max(values) <= middle + reach
    erasing = RandomErasing(count=2, area=(0.1, 0.2), aspect=(0.5, 2.0))
    for _ in range(100):
        for y0, x0, y1, x1 in drawn_step(erasing, random).rectangles:
            assert 0 <= y0 < y1 <= 1 and 0 <= x0 < x1 <= 1
            assert 0.1 - 1e-9 <= (y1 - y0) * (x1 - x0) <= 0.2 + 1e-9
            assert 0.5 - 1e-9 <= (y1 - y0) / (x1 - x0) <= 2 + 1e-9
    assert all(0.5 <= drawn_step(GaussianBlur(sigma=(0.5, 1.0)), random).sigma <= 1.0 for _ in range(50))
    assert all(0.0 <= drawn_step(GaussianNoise(std=5.0), random).std <= 5.0 for _ in range(50))
