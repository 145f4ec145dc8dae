"""From raw pixels to the network's input in one call: geometry, colour, normalisation, padding."""

import math
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detcore.ops import native
from detcore.ops.shapes import expect
from detcore.ops.supersampling import supersample

Range = tuple[int, int]

_WHOLE = 1e-3
"""An edge so close to its pixel border, in pixels, is taken to lie on it: float32 matrices round."""
_CHUNK = 64
"""Rows recoloured and normalised at once."""


def warp_normalize(
    images: Sequence[Tensor],
    geometry: Tensor,
    colour: Tensor,
    out_size: tuple[int, int],
    *,
    content_sizes: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """Warps, recolours and normalises images of any sizes into one padded batch.

    Pixel (i, j) covers [j, j + 1) x [i, i + 1) in (x, y); a geometry maps raw (x, y) to output (x, y), so that the flip
    of a w wide image is x -> w - x. Where it only scales, shifts and mirrors, the result is PIL's antialiased bilinear
    `resize` (to one grey level). Otherwise each pixel is the mean of at least 4 x 4 bilinear samples. Grey levels are
    rounded, then go through the colour matrix, are clamped to 0..255, less the mean, divided by std. On a GPU a resize
    gives the CPU's grey levels, and what is supersampled is within one of them. Perspectives are left to torch's own
    operators, which take longer.

    Geometry, colour and content_sizes are read by the host and must be on the CPU, so that nothing waits for a GPU. The
    GIL is free in the pixel loops of the CPU, which share torch's threads when called from the main thread; from any
    other one they stay on it.

    Args:
        images: B tensors (h, w, 3) uint8, RGB, on the device of the output.
        geometry: (B, 3, 3) float, homogeneous, on the CPU, as colour and content_sizes.
        colour: (B, 3, 4) float, RGB on the 0..255 scale -> RGB, the last column added.
        out_size: (H, W) of the batch.
        content_sizes: (B, 2) integer, height and width of what is drawn of each image, at the top left.
        mean: per channel, on the 0..255 scale.
        std: likewise.
        dtype: of the output, float32, bfloat16 or float16; computed in float32.
        out: memory for the output on the CPU, (B, H, W, 3) of `dtype`, row-major; every number of it is written.

    Returns:
        (B, 3, H, W) channels_last, a view of `out` if that is given; exactly 0 outside the content and where that
        lies outside the raw image.

    Raises:
        ValueError: for an image that is not (h, w, 3) uint8, a content that exceeds out_size, a geometry that is not
            invertible, matrices not on the CPU or not one for each image, an `out` that does not suit.
    """
    _check_batch(images, geometry, colour, content_sizes, mean, std)
    wanted = ((len(images), *out_size, 3), dtype, "cpu")
    if out is not None and ((out.shape, out.dtype, out.device.type) != wanted or not out.is_contiguous()):
        found = f"{tuple(out.shape)} {out.dtype} on {out.device}"
        raise ValueError(f"warp_normalize: out is {found}, must be {wanted[0]} {dtype}, row-major, on the CPU")
    if images and native.serves(images[0].device.type):
        affine = [last == [0.0, 0.0, 1.0] for last in geometry[:, 2].tolist()]
        if not all(affine):
            drawn = torch.tensor(affine)
            return _with_perspectives(drawn, images, geometry, colour, out_size, content_sizes, mean, std, dtype, out)
        for index, (image, matrix, (height, width)) in enumerate(
            zip(images, geometry.double().tolist(), content_sizes.tolist(), strict=True)
        ):
            if height and width and image.numel():
                _check(index, image, matrix, (height, width), out_size)
        parallel = threading.current_thread() is threading.main_thread()
        if out is None:
            out = torch.ops.detcore.warp_normalize(
                images, geometry, colour, content_sizes, *out_size, mean, std, dtype, parallel
            )
        else:
            torch.ops.detcore.warp_normalize_into(out, images, geometry, colour, content_sizes, mean, std, parallel)
        return out.permute(0, 3, 1, 2)
    made = warp_normalize_reference(images, geometry, colour, out_size, content_sizes, mean, std, dtype)
    return made if out is None else out.permute(0, 3, 1, 2).copy_(made)


def warp_normalize_reference(
    images: Sequence[Tensor],
    geometry: Tensor,
    colour: Tensor,
    out_size: tuple[int, int],
    content_sizes: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
) -> Tensor:
    """`warp_normalize` in torch's own operators."""
    height, width = out_size
    device = images[0].device if images else geometry.device
    out = torch.zeros((len(images), height, width, 3), dtype=dtype, device=device)
    rows = zip(images, geometry.double().tolist(), colour.tolist(), content_sizes.tolist(), strict=True)
    for index, (image, matrix, colours, (content_height, content_width)) in enumerate(rows):
        if content_height == 0 or content_width == 0 or image.numel() == 0:
            continue  # an empty row of the batch, whatever its matrices are
        _check(index, image, matrix, (content_height, content_width), out_size)
        canvas = out[index, :content_height, :content_width]
        (a, b, tx), (c, d, ty), last = matrix
        if last == [0, 0, 1] and abs(b) * image.shape[0] < _WHOLE and abs(c) * image.shape[1] < _WHOLE:
            x_range = _covered(a, tx, image.shape[1], content_width)
            y_range = _covered(d, ty, image.shape[0], content_height)
            pixels = _resize(image, (a, tx, x_range), (d, ty, y_range))
            canvas = canvas[y_range[0] : y_range[1], x_range[0] : x_range[1]]
            coverage = None
        else:
            pixels, coverage = supersample(image, matrix, content_height, content_width)
        for top in range(0, len(pixels), _CHUNK):  # what is made on the way stays in the cache
            part = slice(top, top + _CHUNK)
            _normalize(pixels[part], None if coverage is None else coverage[part], colours, mean, std, canvas[part])
    return out.permute(0, 3, 1, 2)


def _with_perspectives(
    affine: Tensor,
    images: Sequence[Tensor],
    geometry: Tensor,
    colour: Tensor,
    out_size: tuple[int, int],
    content_sizes: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    dtype: torch.dtype,
    out: Tensor | None,
) -> Tensor:
    """`warp_normalize` where only the images that are `affine` (B,) are the kernels'."""
    plain = torch.where(affine[:, None, None], geometry, torch.eye(3, dtype=geometry.dtype))
    drawn = torch.where(affine[:, None], content_sizes, 0)
    batch = warp_normalize(
        images, plain, colour, out_size, content_sizes=drawn, mean=mean, std=std, dtype=dtype, out=out
    )
    for row in torch.nonzero(~affine)[:, 0].tolist():
        own = slice(row, row + 1)
        batch[own] = warp_normalize_reference(
            images[own], geometry[own], colour[own], out_size, content_sizes[own], mean, std, dtype
        )
    return batch


def _check_batch(
    images: Sequence[Tensor],
    geometry: Tensor,
    colour: Tensor,
    content_sizes: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    expect(
        "warp_normalize", geometry=(geometry, "B 3 3"), colour=(colour, "B 3 4"), content_sizes=(content_sizes, "B 2")
    )
    if geometry.device.type != "cpu" or len(images) != len(geometry):
        raise ValueError(
            f"warp_normalize: {len(geometry)} geometries on {geometry.device} for {len(images)} images; "
            "must be one for each, on the CPU"
        )
    if len(mean) != 3 or len(std) != 3:
        raise ValueError(f"warp_normalize: {len(mean)} means and {len(std)} deviations for 3 channels")


def _check(index: int, image: Tensor, matrix: list[list[float]], content: Range, out_size: Range) -> None:
    if image.dtype != torch.uint8 or image.dim() != 3 or image.shape[2] != 3:
        raise ValueError(f"image {index}: {tuple(image.shape)} {image.dtype}, warp_normalize needs (h, w, 3) uint8")
    if content[0] > out_size[0] or content[1] > out_size[1] or min(content) < 0:
        raise ValueError(f"image {index}: content {content} does not fit the output {out_size}")
    (a, b, tx), (c, d, ty), (g, h, one) = matrix
    determinant = a * (d * one - ty * h) - b * (c * one - ty * g) + tx * (c * h - d * g)
    if not 0 < abs(determinant) < float("inf"):
        raise ValueError(f"image {index}: geometry {matrix} is not invertible")


def _covered(scale: float, shift: float, raw: int, content: int) -> Range:
    """The output pixels, within the content, whose centres the raw image covers along one axis."""
    first, last = sorted((shift, scale * raw + shift))
    low = min(max(0, math.ceil(first - 0.5 - _WHOLE)), content)
    return low, max(low, min(content, math.ceil(last - 0.5 + _WHOLE)))


def _resize(image: Tensor, x: tuple[float, float, Range], y: tuple[float, float, Range]) -> Tensor:
    """(h, w, 3) -> grey levels (y pixels, x pixels, 3), antialiased; x and y are (scale, shift, output pixels)."""
    height, width, _ = image.shape
    whole_x, whole_y = _whole_pixels(*x, width), _whole_pixels(*y, height)
    planes = image.permute(2, 0, 1)[None]
    if whole_x and whole_y and not image.is_cuda:  # torch's kernel for uint8 is vectorised, but knows no fractions
        size = (whole_y[1] - whole_y[0], whole_x[1] - whole_x[0])
        passes = [(size[0], width), size] if _rows_first((height, width), size) else [size]
        for target in passes:
            if target != planes.shape[2:]:
                planes = torch.nn.functional.interpolate(planes, size=target, mode="bilinear", antialias=True)
        mirrored = [axis for axis, scale in ((2, y[0]), (3, x[0])) if scale < 0]
        planes = planes.flip(mirrored) if mirrored else planes
        (left, right), (top, bottom) = x[2], y[2]
        return planes[0, :, top - whole_y[0] : bottom - whole_y[0], left - whole_x[0] : right - whole_x[0]].permute(
            1, 2, 0
        )
    levels = image.float()
    rows_first = _rows_first((height, width), (y[2][1] - y[2][0], x[2][1] - x[2][0]))
    for axis in (0, 1) if rows_first else (1, 0):
        taps = _taps(*(y, x)[axis], image.shape[axis], image.device)
        levels = _filter(levels, axis, *taps).round_()
    return levels


def _rows_first(raw: Range, out: Range) -> bool:
    """Whether PIL, of the two passes that it rounds to 8 bits each, makes the vertical one first (since Pillow 13)."""
    return out[0] < raw[0] and 2 * (raw[1] - out[1]) < raw[0] - out[0]


def _whole_pixels(scale: float, shift: float, covered: Range, raw: int) -> Range | None:
    """The output pixels [first, last) that the raw axis maps onto, if edge falls onto edge and there are any."""
    edges = sorted((shift, scale * raw + shift))
    first, last = round(edges[0]), round(edges[1])
    exact = max(abs(edges[0] - first), abs(edges[1] - last)) < _WHOLE
    return (first, last) if exact and first <= covered[0] < covered[1] <= last else None


def _taps(scale: float, shift: float, covered: Range, raw: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which raw pixels each output pixel averages: indices and weights, (taps, pixels); a pixel's weights sum to 1.

    The filter is a triangle, as wide as the larger of the two kinds of pixels.
    """
    reach = max(1.0, 1 / abs(scale))
    centre = (torch.arange(*covered, dtype=torch.float64, device=device) + 0.5 - shift) / scale
    index = (centre - reach).floor() + torch.arange(math.ceil(2 * reach) + 1, device=device)[:, None]
    weight = (1 - (index + 0.5 - centre).abs() / reach).clamp_(min=0) * ((index >= 0) & (index < raw))
    return index.clamp_(0, raw - 1).to(torch.int64), (weight / weight.sum(dim=0)).float()


def _filter(levels: Tensor, axis: int, index: Tensor, weight: Tensor) -> Tensor:
    """The weighted mean of the taps along axis 0 or 1 of (h, w, 3) float32."""
    shape = (-1, 1) if axis == 1 else (-1, 1, 1)
    total = levels.index_select(axis, index[0]).mul_(weight[0].view(shape))
    for tap, share in zip(index[1:], weight[1:], strict=True):
        total.add_(levels.index_select(axis, tap).mul_(share.view(shape)))
    return total


def _normalize(
    pixels: Tensor,
    coverage: Tensor | None,
    colour: list[list[float]],
    mean: Sequence[float],
    std: Sequence[float],
    out: Tensor,
) -> None:
    """Colour matrix, clamp, normalisation of (h, w, 3) grey levels, into the view out (h, w, 3) of the batch."""
    height, width, _ = pixels.shape
    if colour != [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]:
        matrix = torch.tensor(colour, device=pixels.device)
        recoloured = torch.addmm(matrix[:, 3], pixels.reshape(-1, 3).float(), matrix[:, :3].T)
        pixels = recoloured.clamp_(0, 255).view(height, width, 3)
    # A row of pixels as one vector: long inner loops instead of three steps a pixel.
    scale, shift = (
        torch.tensor(values, device=pixels.device).repeat(width)
        for values in ([1 / s for s in std], [-m / s for m, s in zip(mean, std, strict=True)])
    )
    rows = out.flatten(1) if out.dtype == torch.float32 else torch.empty((height, 3 * width), device=out.device)
    rows.copy_(pixels.reshape(height, -1))
    torch.addcmul(shift, rows, scale, out=rows)
    if coverage is not None:
        rows.view(height, width, 3).mul_(coverage[..., None])
    if out.dtype != torch.float32:
        out.copy_(rows.view(height, width, 3))


def _fake(
    images: list[Tensor], geometry: Tensor, colour: Tensor, content: Tensor, height: int, width: int, *rest: Any
) -> Tensor:
    like = images[0] if images else geometry
    return like.new_empty((len(images), height, width, 3), dtype=rest[2])


native.define(
    "warp_normalize",
    "(Tensor[] images, Tensor geometry, Tensor colour, Tensor content_sizes, SymInt height, SymInt width, "
    "float[] mean, float[] std, ScalarType dtype, bool parallel) -> Tensor",
    _fake,
)
native.define(
    "warp_normalize_into",
    "(Tensor(a!) out, Tensor[] images, Tensor geometry, Tensor colour, Tensor content_sizes, float[] mean, "
    "float[] std, bool parallel) -> ()",
    lambda *_: None,
)
