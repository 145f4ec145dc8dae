"""A resize is PIL's antialiased bilinear one: on noise of many sizes and ratios, on photographs as training has them.

Within one grey level everywhere, 0.1 in the mean.
"""

from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torch import Tensor

from detcore.ops import warp_normalize

# Before version 13 PIL made the horizontal pass first in any case, and rounded it first.
MEAN_TOLERANCE = 0.1 if int(PIL.__version__.partition(".")[0]) >= 13 else 0.3

RAW = [(1, 1), (1, 40), (40, 1), (2, 3), (33, 47), (64, 64), (97, 211), (150, 201)]
RATIOS = [(1.0, 1.0), (1.0001, 1.4), (1.67, 1.67), (2.0, 0.5), (6.3, 5.1), (0.99, 0.7), (0.51, 0.51), (0.36, 0.3)]
SMALL_RATIOS = [(0.27, 0.25), (0.11, 0.13), (0.02, 3.0), (3.0, 0.02)]


def resized(image: Tensor, height: int, width: int, mirrored: bool, device: str, **keywords: object) -> Tensor:
    """(height, width, 3), grey levels."""
    x, y = width / image.shape[1], height / image.shape[0]
    matrix = torch.tensor([[[-x if mirrored else x, 0, width if mirrored else 0], [0, y, 0], [0, 0, 1]]])
    out = warp_normalize(
        [image.to(device)],
        matrix,
        torch.eye(3, 4)[None],
        (height, width),
        content_sizes=torch.tensor([[height, width]]),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        **keywords,  # type: ignore[arg-type]
    )
    return out[0].permute(1, 2, 0).cpu()


def expect_pil(image: Tensor, height: int, width: int, mirrored: bool, device: str) -> None:
    pil = np.asarray(Image.fromarray(image.numpy()).resize((width, height), Image.Resampling.BILINEAR))
    ours = resized(image, height, width, mirrored, device).numpy()
    difference = np.abs(ours - (pil[:, ::-1] if mirrored else pil).astype(np.float32))
    assert difference.max() <= 1, (image.shape, height, width)
    assert difference.mean() <= MEAN_TOLERANCE, (image.shape, height, width)


@pytest.mark.parametrize("ratios", RATIOS + SMALL_RATIOS)
@pytest.mark.parametrize("raw", RAW)
def test_noise(raw: tuple[int, int], ratios: tuple[float, float], device: str) -> None:
    generator = torch.Generator().manual_seed(raw[0])
    image = torch.randint(0, 256, (*raw, 3), generator=generator, dtype=torch.uint8)
    height, width = (max(1, round(ratio * side)) for ratio, side in zip(ratios, raw, strict=True))
    for mirrored in (False, True):
        expect_pil(image, height, width, mirrored, device)


def test_black_and_white(device: str) -> None:
    """The largest steps, at both ends of the range."""
    rows, columns = np.mgrid[:60, :80]
    for pattern in ((rows + columns) % 2, columns // 5 % 2, rows % 2):
        image = torch.from_numpy(np.repeat((255 * pattern).astype(np.uint8)[..., None], 3, axis=2))
        for height, width in ((100, 133), (45, 60), (31, 140), (7, 9)):
            expect_pil(image, height, width, False, device)


@pytest.mark.parametrize("short", [640, 672, 704, 736, 768, 800, 400])
def test_photographs(short: int, shared: Path, device: str) -> None:
    files = sorted((shared / "data" / "coco_mini" / "images").glob("*.jpg"))
    assert len(files) > 100
    for file in files[short % 17 :: 17]:  # other ones at each size
        image = torch.from_numpy(np.array(Image.open(file).convert("RGB")))
        scale = short / min(image.shape[:2])
        height, width = (round(scale * side) for side in image.shape[:2])
        expect_pil(image, height, width, short % 64 == 0, device)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [160, 157])  # rows that begin at multiples of 64 bytes, and that do not
@pytest.mark.parametrize("offset", [0, 1])  # likewise the batch
def test_into_memory_of_the_callers(dtype: torch.dtype, width: int, offset: int) -> None:
    image = torch.randint(0, 256, (50, 60, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    memory = torch.full((90 * width * 3 + 2,), 7.0, dtype=dtype)
    out = memory[offset : offset + 90 * width * 3].view(1, 90, width, 3)
    found = resized(image, 90, width, False, "cpu", dtype=dtype, out=out)
    assert found.data_ptr() == out.data_ptr()
    assert torch.equal(found, resized(image, 90, width, False, "cpu", dtype=dtype))
    assert (memory[:offset] == 7).all() and (memory[offset + 90 * width * 3 :] == 7).all()


def test_memory_that_does_not_suit_is_refused() -> None:
    image = torch.zeros((5, 6, 3), dtype=torch.uint8)
    for out in (torch.zeros(1, 9, 9, 3), torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8, 3, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"out is .* must be \(1, 8, 8, 3\) torch.float32"):
            resized(image, 8, 8, False, "cpu", out=out)
