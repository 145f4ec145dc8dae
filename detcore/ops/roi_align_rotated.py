"""RoIAlign from rotated boxes."""

from typing import Any

import torch
from torch import Tensor

from detcore.ops import native
from detcore.ops.roi_align import check_grid, is_channels_last, layout
from detcore.ops.shapes import expect

_CHUNK = 2**22
"""Feature values gathered at once."""


def roi_align_rotated(
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
) -> Tensor:
    """RoIAlign on a grid that is turned with the box; at angle 0 it is `roi_align` with aligned=True.

    Args:
        features: (B, C, H, W) float; bf16 and fp16 are computed in fp32.
        rois: (K, 6), (batch index, cx, cy, w, h, angle) in input pixels and degrees, counter-clockwise.
        output_size: height and width of the output.
        spatial_scale: feature pixels per input pixel.
        sampling_ratio: samples per bin and axis; 0 or less means as many as the bin has feature pixels, rounded up.

    Returns:
        (K, C, height, width) in the dtype of the features; differentiable in them. It is 0 for a RoI with a non-finite
        number or whose batch index names no image. Sides are clamped to 0 .. 4 (H + W) feature pixels.
    """
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    check_grid("roi_align_rotated", (height, width), sampling_ratio)
    expect("roi_align_rotated", features=(features, "B C H W"), rois=(rois, "K 6"))
    if native.serves(features.device.type):
        pooled: Tensor = torch.ops.detcore.roi_align_rotated(
            features, rois.detach(), spatial_scale, height, width, sampling_ratio, is_channels_last(features)
        )
        return pooled
    return roi_align_rotated_reference(features, rois, (height, width), spatial_scale, sampling_ratio)


def roi_align_rotated_reference(
    features: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """`roi_align_rotated` by gathering every sample's four pixels; sampling_ratio 0 makes the host wait."""
    out_h, out_w = output_size
    batch, channels, height, width = features.shape
    dtype = features.dtype
    accurate = torch.promote_types(dtype, torch.float32)
    rois = rois.detach().to(accurate)
    usable = rois.isfinite().all(dim=1) & (rois[:, 0] >= 0) & (rois[:, 0] < batch)
    rois = torch.where(usable[:, None], rois, 0)
    image, angle = rois[:, 0].to(torch.int64), torch.deg2rad(rois[:, 5].fmod(360))
    centre = rois[:, 1:3] * spatial_scale - 0.5
    sides = (rois[:, 3:5] * spatial_scale).clamp(0, 4.0 * (height + width))
    table = features.to(accurate).permute(0, 2, 3, 1).reshape(-1, channels)
    parts, pooled = [image[:0]], [table.new_zeros((0, channels, out_h, out_w))]
    for grid, own in _grids(sides, (out_h, out_w), sampling_ratio) if len(table) else []:
        step = max(1, _CHUNK // max(1, grid[0] * grid[1] * out_h * out_w * channels))
        for first in range(0, len(own), step):
            part = own[first : first + step]
            y, x = _places(centre[part], sides[part], angle[part], (out_h, out_w), grid)
            read = _bilinear(table, image[part], y, x, usable[part], (height, width))
            bins = read.reshape(len(part), out_h, grid[0], out_w, grid[1], channels).mean(dim=(2, 4))
            parts.append(part)
            pooled.append(bins.permute(0, 3, 1, 2))
    out = table.new_zeros((len(rois), channels, out_h, out_w))
    return out.index_copy(0, torch.cat(parts), torch.cat(pooled)).to(dtype)


def _grids(sides: Tensor, out: tuple[int, int], sampling_ratio: int) -> list[tuple[tuple[int, int], Tensor]]:
    """Samples per bin (rows, columns), and the RoIs (indices) that have so many; RoIs without a sample are left out."""
    if sampling_ratio > 0:
        return [((sampling_ratio, sampling_ratio), torch.arange(len(sides), device=sides.device))]
    counts = torch.stack((sides[:, 1] / out[0], sides[:, 0] / out[1]), dim=1).ceil().to(torch.int64)
    kinds = sorted({(rows, columns) for rows, columns in counts.tolist() if rows and columns})
    return [(kind, (counts == counts.new_tensor(kind)).all(dim=1).nonzero()[:, 0]) for kind in kinds]


def _places(
    centre: Tensor, sides: Tensor, angle: Tensor, out: tuple[int, int], grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """y and x (K, rows, columns) of all samples in the feature map."""
    rows, columns = (
        (torch.arange(n * g, device=sides.device, dtype=sides.dtype) + 0.5) / (n * g) - 0.5
        for n, g in zip(out, grid, strict=True)
    )
    v, u = (rows * sides[:, 1:])[:, :, None], (columns * sides[:, :1])[:, None, :]
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return centre[:, 1, None, None] + v * cos - u * sin, centre[:, 0, None, None] + v * sin + u * cos


def _bilinear(table: Tensor, image: Tensor, y: Tensor, x: Tensor, usable: Tensor, size: tuple[int, int]) -> Tensor:
    """(K, rows, columns, C) from the table (B H W, C): the border's value up to a pixel outside, 0 beyond."""
    height, width = size
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width) & usable[:, None, None]
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    top, left = y.floor(), x.floor()
    total: Tensor | None = None
    for row, row_share in ((top, 1 - (y - top)), ((top + 1).clamp(max=height - 1), y - top)):
        for column, share in ((left, 1 - (x - left)), ((left + 1).clamp(max=width - 1), x - left)):
            index = (image[:, None, None] * height + row.to(torch.int64)) * width + column.to(torch.int64)
            weight = torch.where(inside, row_share * share, 0)[..., None]
            term = table[torch.where(inside, index, 0)] * weight
            total = term if total is None else total + term
    assert total is not None
    return total


def _fake(features: Tensor, rois: Tensor, scale: float, height: int, width: int, sampling: int, last: bool) -> Tensor:
    shape = (rois.shape[0], features.shape[1], height, width)
    return torch.empty(shape, dtype=features.dtype, device=features.device, memory_format=layout(last))


def _fake_backward(
    grad: Tensor, rois: Tensor, scale: float, map_height: int, map_width: int, batch: int, sampling: int, last: bool
) -> Tensor:
    shape = (batch, grad.shape[1], map_height, map_width)
    return torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout(last))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, ctx.scale, _, _, *ctx.rest = inputs
    ctx.save_for_backward(rois)
    ctx.batch, _, ctx.map_height, ctx.map_width = features.shape


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    (rois,) = ctx.saved_tensors
    sizes = (ctx.map_height, ctx.map_width, ctx.batch)
    return (torch.ops.detcore.roi_align_rotated_backward(grad, rois, ctx.scale, *sizes, *ctx.rest), *[None] * 6)


native.define(
    "roi_align_rotated",
    "(Tensor features, Tensor rois, float scale, SymInt height, SymInt width, int sampling_ratio, "
    "bool channels_last) -> Tensor",
    _fake,
    save=_save,
    backward=_backward,
)
native.define(
    "roi_align_rotated_backward",
    "(Tensor grad, Tensor rois, float scale, SymInt map_height, SymInt map_width, SymInt batch, int sampling_ratio, "
    "bool channels_last) -> Tensor",
    _fake_backward,
)
