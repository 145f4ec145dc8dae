"""Keypoints to pixels of a region's heatmap, and back: Mask R-CNN, arXiv:1703.06870, section 5."""

from contextlib import nullcontext

import torch
from torch import Tensor

from detcore.structures.boxes import SMALLEST_SIDE

GRID = 224
"""Points along each side of a box at which its heatmaps are read first: all of its pixels, or every second, ...

Four for each pixel of a published head's heatmap: with two, a heatmap of noise has its best pixel missed at times."""
BLOCK, PEAKS = 4, 8
"""Around the best points of so many blocks of BLOCK x BLOCK of them every pixel is looked at."""
REGIONS_AT_ONCE = 32
"""Bounds the memory."""
CUBIC = -0.75
"""The cubic convolution's parameter: torch's."""


def heatmap_bins(points: Tensor, boxes_xyxy: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The pixel of a region's heatmap that each keypoint falls into.

    Args:
        points: (..., K, 2) x, y.
        boxes_xyxy: (..., 4), the regions.
        size: of a heatmap's side.

    Returns:
        bins: (..., K) int64, row * size + column; 0 where outside.
        inside: (..., K) bool; the right and the lower edge belong to the region.
    """
    low, high = boxes_xyxy[..., None, :2], boxes_xyxy[..., None, 2:]
    place = ((points - low) * (size / (high - low).clamp(min=SMALLEST_SIDE))).floor()
    place = torch.where(points == high, size - 1.0, place)
    inside = ((place >= 0) & (place < size)).all(dim=-1)
    column, row = torch.where(inside[..., None], place, 0.0).long().unbind(-1)
    return row * size + column, inside


def keypoints_of_heatmaps(heatmaps: Tensor, boxes_xyxy: Tensor, *, longest_side: int) -> Tensor:
    """The best pixel of each heatmap when it is resized to its box, bicubically.

    Resized one by one, heatmaps would take as many shapes as there are boxes. Here a grid of at most `GRID` x `GRID`
    of a box's pixels is evaluated, then all of its pixels around the grid's best points. Where a box is not
    longer than `GRID` pixels that is every pixel.

    Args:
        heatmaps: (N, K, S, S) logits, float32 or float64.
        boxes_xyxy: (N, 4), in pixels.
        longest_side: in pixels; no box has a longer one.

    Returns:
        (N, K, 3): x and y in pixels, and the score: exp of the best logit over the sum of exp over the heatmap's own
        pixels, so that it does not depend on the box's size.
    """
    parts = [(heatmaps, boxes_xyxy)]
    if not torch.compiler.is_exporting():  # a graph has one part for any number of regions
        parts = list(zip(heatmaps.split(REGIONS_AT_ONCE), boxes_xyxy.split(REGIONS_AT_ONCE), strict=True))
    # Pixels next to each other differ by little. The meta device knows no autocast.
    with nullcontext() if heatmaps.is_meta else torch.autocast(heatmaps.device.type, enabled=False):
        found = [_keypoints(*part, longest_side=longest_side) for part in parts]
    return torch.cat(found) if found else heatmaps.new_zeros((*heatmaps.shape[:2], 3))


def _keypoints(heatmaps: Tensor, boxes_xyxy: Tensor, *, longest_side: int) -> Tensor:
    sides = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clamp(min=1.0)  # (N, 2): width, height
    counts = sides.ceil()  # of pixels
    step = (counts / GRID).ceil()  # 1 where every pixel is on the grid
    peaks = _peaks(heatmaps, counts, step)

    reach = -(-longest_side // GRID)  # the largest step there can be
    window = torch.arange(1 - reach, reach, dtype=sides.dtype, device=sides.device)
    around = (peaks * step[:, None, None])[..., None] + window  # (N, K, T, 2, W)
    around = torch.minimum(around.clamp(min=0.0), counts[:, None, None, :, None] - 1.0)
    columns, rows = around.unbind(-2)
    values = _resized(heatmaps[:, :, None], rows, columns, counts)  # (N, K, T, W, W)
    best, index = values.flatten(2).max(dim=2)
    width = window.shape[0]
    row = rows.flatten(2).gather(2, index.div(width, rounding_mode="floor")[..., None])
    peak = index.div(width * width, rounding_mode="floor")
    column = columns.flatten(2).gather(2, (peak * width + index % width)[..., None])
    pixel = torch.cat((column, row), dim=-1)
    xy = boxes_xyxy[:, None, :2] + (pixel + 0.5) * (sides / counts)[:, None]
    score = (best - heatmaps.flatten(2).logsumexp(dim=2)).exp()
    return torch.cat((xy, score[..., None]), dim=-1)


def _peaks(heatmaps: Tensor, counts: Tensor, step: Tensor) -> Tensor:
    """The best points of the best blocks of the grid: (N, K, PEAKS, 2) columns and rows of the grid."""
    grid = torch.arange(GRID, dtype=step.dtype, device=step.device) * step[..., None]  # (N, 2, GRID)
    values = _resized(heatmaps, grid[:, 1, None], grid[:, 0, None], counts)  # (N, K, GRID, GRID)
    outside = grid >= counts[..., None]
    values.masked_fill_((outside[:, 1, :, None] | outside[:, 0, None, :])[:, None], -torch.inf)
    blocks = values.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK))  # (N, K, rows, BLOCK, columns, BLOCK)
    across = GRID // BLOCK
    _, best = blocks.amax(dim=(3, 5)).flatten(2).topk(PEAKS, dim=2)
    offset = torch.arange(BLOCK, device=step.device)
    rows = (best.div(across, rounding_mode="floor") * BLOCK)[..., None, None] + offset[:, None]
    columns = (best % across * BLOCK)[..., None, None] + offset
    places = (rows * GRID + columns).flatten(3)  # (N, K, PEAKS, BLOCK * BLOCK)
    inside = values.flatten(2).gather(2, places.flatten(2)).view_as(places).argmax(dim=3, keepdim=True)
    place = places.gather(3, inside)
    return torch.cat((place % GRID, place.div(GRID, rounding_mode="floor")), dim=-1)


def _resized(heatmaps: Tensor, rows: Tensor, columns: Tensor, counts: Tensor) -> Tensor:
    """Values of pixels of heatmaps resized bicubically, as torch.nn.functional.interpolate has them.

    Args:
        heatmaps: (N, ..., S, S).
        rows, columns: (N, ..., P) and (N, ..., Q), pixels of the resized maps.
        counts: (N, 2), columns and rows of the resized maps.

    Returns:
        (N, ..., P, Q).
    """
    size = heatmaps.shape[-1]
    shape = (-1, *[1] * (rows.dim() - 1))
    vertical = _cubic_weights(rows, counts[:, 1].view(shape), size)
    horizontal = _cubic_weights(columns, counts[:, 0].view(shape), size)
    return vertical @ heatmaps @ horizontal.transpose(-1, -2)


def _cubic_weights(pixels: Tensor, count: Tensor, size: int) -> Tensor:
    """(..., P) pixels of a line resized from `size` to `count` pixels -> (..., P, size), each one's weights.

    Cubic convolution (Keys 1981); beyond the ends the line goes on with its last pixels.
    """
    place = (pixels + 0.5) * (size / count) - 0.5
    first = place.floor()
    weights = pixels.new_zeros((*pixels.shape, size))
    for tap in range(-1, 3):
        distance = (place - first - tap).abs()
        near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance.square() + 1
        far = ((distance - 5) * distance + 8) * distance * CUBIC - 4 * CUBIC
        index = (first + tap).clamp(0, size - 1).long()
        weights.scatter_add_(-1, index[..., None], torch.where(distance <= 1, near, far)[..., None])
    return weights
