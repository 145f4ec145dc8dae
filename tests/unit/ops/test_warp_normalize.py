"""Expected values: PIL's bilinear resize, with its box argument for fractions; 4 x 4 supersampling in numpy."""

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torch import Tensor

from detcore.ops import warp_normalize

IDENTITY = torch.eye(3, 4)[None]
MEAN, STD = (120.0, 100.0, 80.0), (50.0, 60.0, 70.0)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photograph(height: int, width: int) -> np.ndarray:
    """Colours that vary over about ten pixels."""
    small = Image.fromarray(noise(height // 10, width // 10))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def warp(
    image: np.ndarray,
    matrix: list[list[float]],
    content: tuple[int, int],
    size: tuple[int, int] | None = None,
    colour: Tensor = IDENTITY,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Grey levels (H, W, 3)."""
    geometry = torch.tensor([[*matrix, [0, 0, 1]][:3]], dtype=torch.float32)
    out = warp_normalize(
        [torch.from_numpy(image.copy())],
        geometry,
        colour,
        size or content,
        content_sizes=torch.tensor([content]),
        mean=MEAN,
        std=STD,
        dtype=dtype,
    )
    assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
    return out[0].permute(1, 2, 0).float()


def levels(normalised: Tensor) -> np.ndarray:
    return (normalised * torch.tensor(STD) + torch.tensor(MEAN)).numpy()


def assert_like_pil(ours: np.ndarray, pil: np.ndarray) -> None:
    difference = np.abs(ours - pil.astype(np.float64))
    assert difference.max() <= 1.01 and difference.mean() <= 0.1


# Height shrinks and width grows: since Pillow 13 the vertical pass then comes first, and rounds first.
ROWS_FIRST = pytest.param((20, 90), marks=pytest.mark.skipif(PIL.__version__ < "13", reason="Pillow before 13"))
SIZES = [(48, 64), (96, 150), (30, 31), (11, 7), (1, 1), ROWS_FIRST]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_resize_and_flip_equal_pil(size: tuple[int, int], flips: tuple[bool, bool]) -> None:
    image, (height, width) = noise(48, 64), size
    pil = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    matrix = [[width / 64, 0, 0], [0, height / 48, 0]]
    if flips[0]:
        pil, matrix[0] = pil[:, ::-1], [-width / 64, 0, width]
    if flips[1]:
        pil, matrix[1] = pil[::-1], [0, -height / 48, height]
    assert_like_pil(levels(warp(image, matrix, size)), pil)


@pytest.mark.parametrize("scale", [(1.7, 2.3), (0.4, 0.3), (1.0, 1.0), (1.2, 0.6)])
@pytest.mark.parametrize("flip", [False, True])
def test_crop_at_a_fraction_of_a_pixel_equals_pil(scale: tuple[float, float], flip: bool) -> None:
    image, (height, width) = noise(48, 64), (9, 14)
    x1, y1 = 3.3, 5.8  # the crop's corner in raw pixels
    box = (x1, y1, x1 + width / scale[0], y1 + height / scale[1])
    pil = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR, box=box))
    matrix = [[scale[0], 0, -scale[0] * x1], [0, scale[1], -scale[1] * y1]]
    if flip:
        pil, matrix[0] = pil[:, ::-1], [-scale[0], 0, width + scale[0] * x1]
    assert_like_pil(levels(warp(image, matrix, (height, width))), pil)


def test_crop_of_a_resized_image_equals_pil() -> None:
    image = noise(48, 64)
    pil = np.asarray(Image.fromarray(image).resize((96, 72), Image.Resampling.BILINEAR))[10:40, 20:70]
    assert_like_pil(levels(warp(image, [[1.5, 0, -20], [0, 1.5, -10]], (30, 50))), pil)
    flipped = warp(image, [[-1.5, 0, 96 - 26], [0, 1.5, -10]], (30, 50))
    assert_like_pil(levels(flipped)[:, ::-1], pil)


def test_shift_into_a_larger_canvas_leaves_zeros() -> None:
    image = noise(8, 10)
    for shift in ((4.0, 3.0), (-4.0, 3.0), (4.25, -3.25)):
        out = warp(image, [[1, 0, shift[0]], [0, 1, shift[1]]], (12, 15), (16, 18))
        x, y = np.arange(18) + 0.5 - shift[0], np.arange(16) + 0.5 - shift[1]
        inside = ((x >= 0) & (x <= 10) & (np.arange(18) < 15))[None] & ((y >= 0) & (y <= 8) & (np.arange(16) < 12))[
            :, None
        ]
        assert not out[torch.from_numpy(~inside)].any()
        if shift[0] % 1 == 0:
            ours = levels(out)[inside]
            source = image[np.clip(y.astype(int), 0, 7)][:, np.clip(x.astype(int), 0, 9)][inside]
            np.testing.assert_allclose(ours, source, atol=1e-3)


def supersampled(image: np.ndarray, matrix: np.ndarray, height: int, width: int, count: int = 4) -> np.ndarray:
    """Mean of count x count bilinear samples a pixel; NaN where one of them lies outside of the image."""
    inverse = np.linalg.inv(np.vstack((matrix, [0, 0, 1])))
    raw_height, raw_width, _ = image.shape
    step = (np.arange(count) + 0.5) / count
    x, y = np.meshgrid((np.arange(width)[:, None] + step).ravel(), (np.arange(height)[:, None] + step).ravel())
    u, v = (inverse[r, 0] * x + inverse[r, 1] * y + inverse[r, 2] for r in (0, 1))
    outside = (u < 0) | (v < 0) | (u > raw_width) | (v > raw_height)
    u, v = np.clip(u - 0.5, 0, raw_width - 1), np.clip(v - 0.5, 0, raw_height - 1)
    i, j = np.minimum(v.astype(int), raw_height - 2), np.minimum(u.astype(int), raw_width - 2)
    fy, fx = (v - i)[..., None], (u - j)[..., None]
    p = image.astype(np.float64)
    sample = (p[i, j] * (1 - fx) + p[i, j + 1] * fx) * (1 - fy) + (p[i + 1, j] * (1 - fx) + p[i + 1, j + 1] * fx) * fy
    sample[outside] = np.nan
    return sample.reshape(height, count, width, count, 3).mean(axis=(1, 3))


@pytest.mark.parametrize("scale", [1.4, 1.0, 0.5, 0.3])
def test_rotation_and_shear_equal_supersampling(scale: float) -> None:
    image = photograph(80, 100)
    cos, sin = scale * np.cos(0.4), scale * np.sin(0.4)
    matrix = np.array([[cos, sin + 0.1, -8 * scale], [-sin, cos, 25 * scale]])
    height, width = int(80 * scale), int(100 * scale)
    ours = levels(warp(image, matrix.tolist(), (height, width)))
    want = supersampled(image, matrix, height, width)
    seen = np.isfinite(want)
    assert 0.3 < seen.mean() < 1
    assert np.abs(ours - want)[seen].max() <= 2


def test_rotation_beyond_the_image_is_zero() -> None:
    out = warp(np.full((20, 20, 3), 255, np.uint8), [[0.7, 0.7, 10.0], [-0.7, 0.7, 20.0]], (40, 40))
    assert not out[0].any() and not out[:, 39].any() and out[20, 20].all()


def test_colour_is_applied_and_clamped() -> None:
    image = noise(6, 7)
    colour = torch.tensor([[[1.5, 0.2, 0, -20], [0, 0.5, 0, 10], [0.3, 0.3, 0.4, 0]]])
    want = np.clip(image @ colour[0, :, :3].T.numpy() + colour[0, :, 3].numpy(), 0, 255)
    assert want.min() == 0 and want.max() == 255
    np.testing.assert_allclose(levels(warp(image, [[1, 0, 0], [0, 1, 0]], (6, 7), colour=colour)), want, atol=1e-3)


def test_padding_is_zero_and_rows_are_independent() -> None:
    images = [torch.from_numpy(noise(10, 12)), torch.from_numpy(noise(5, 9)), torch.zeros((0, 0, 3), dtype=torch.uint8)]
    geometry = torch.eye(3).repeat(3, 1, 1)
    geometry[2] = 0
    sizes = torch.tensor([[10, 12], [5, 9], [0, 0]])
    out = warp_normalize(images, geometry, IDENTITY.repeat(3, 1, 1), (16, 16), content_sizes=sizes, mean=MEAN, std=STD)
    assert out.shape == (3, 3, 16, 16)
    for row, (height, width) in enumerate(sizes.tolist()):
        assert not out[row, :, height:].any() and not out[row, :, :, width:].any()
        np.testing.assert_allclose(
            levels(out[row, :, :height, :width].permute(1, 2, 0)), images[row].numpy().astype(float), atol=1e-3
        )
    nothing = warp_normalize([], geometry[:0], IDENTITY[:0], (4, 4), content_sizes=sizes[:0], mean=MEAN, std=STD)
    assert nothing.shape == (0, 3, 4, 4)


@pytest.mark.parametrize("tilt", [(0.004, 0.0), (-0.003, 0.005)])
def test_a_perspective_is_pils_supersampled(tilt: tuple[float, float]) -> None:
    """PIL's PERSPECTIVE of an output four times as large, of which 4 x 4 pixels are averaged."""
    image = photograph(80, 100)
    matrix = np.array([[0.9, 0.2, 3.0], [-0.1, 1.1, 2.0], [*tilt, 1.0]])
    finer = np.linalg.inv(np.diag([4.0, 4.0, 1.0]) @ matrix)
    data = (finer / finer[2, 2]).reshape(-1)[:8].tolist()
    pil = Image.fromarray(image).transform((480, 360), Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR)
    expected = np.asarray(pil, np.float64).reshape(90, 4, 120, 4, 3).mean(axis=(1, 3))
    ones = Image.new("L", (100, 80), 255).transform((480, 360), Image.Transform.PERSPECTIVE, data)
    inside = np.asarray(ones).reshape(90, 4, 120, 4).min(axis=(1, 3)) == 255
    inside = np.all([np.roll(inside, step, axis) for step in (-1, 1) for axis in (0, 1)], axis=0)
    ours = warp(image, matrix.tolist(), (90, 120))
    assert inside.mean() > 0.4
    assert np.abs(levels(ours) - expected)[inside].max() <= 2.0
    # Beside others in a batch it is the same, and they are what they are alone.
    memory = torch.full((2, 90, 120, 3), 7.0)
    pair = warp_normalize(
        [torch.from_numpy(image.copy())] * 2, torch.tensor(np.stack([np.eye(3), matrix])).float(),
        IDENTITY.expand(2, 3, 4), (90, 120), content_sizes=torch.tensor([[80, 100], [90, 120]]), mean=MEAN, std=STD,
        out=memory,
    )  # fmt: skip
    assert pair.data_ptr() == memory.data_ptr()
    torch.testing.assert_close(pair[1].permute(1, 2, 0), ours, rtol=0, atol=0)
    plain = warp(image, [[1, 0, 0], [0, 1, 0]], (80, 100), (90, 120))
    torch.testing.assert_close(pair[0].permute(1, 2, 0), plain, rtol=0, atol=0)


def test_bfloat16_is_the_rounded_float32() -> None:
    image = noise(9, 9)
    want = warp(image, [[1.3, 0, 0], [0, 1.3, 0]], (11, 11))
    torch.testing.assert_close(
        warp(image, [[1.3, 0, 0], [0, 1.3, 0]], (11, 11), dtype=torch.bfloat16), want.bfloat16().float(), rtol=0, atol=0
    )


def test_errors_name_the_image() -> None:
    image = noise(4, 4)
    with pytest.raises(ValueError, match=r"image 0: .*uint8"):
        warp(image.astype(np.float32), [[1, 0, 0], [0, 1, 0]], (4, 4))
    with pytest.raises(ValueError, match="does not fit"):
        warp(image, [[1, 0, 0], [0, 1, 0]], (4, 4), (3, 4))
    for bad in ([[0, 0, 0], [0, 1, 0]], [[torch.nan, 0, 0], [0, 1, 0]], [[1, 0, torch.inf], [0, 1, 0]]):
        with pytest.raises(ValueError, match="not invertible"):
            warp(image, bad, (4, 4))
