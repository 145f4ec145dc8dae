"""Maps of labels through the same matrices as their images, without mixing labels."""

from collections.abc import Sequence

import torch
from torch import Tensor

from detcore.ops.shapes import expect

# As in warp_normalize: what a matrix turns or shears by less than this, in pixels, it does not turn or shear.
_WHOLE = 1e-3

_HORIZON = 1e-3
"""What a perspective takes nearer to its horizon than this, is out of sight."""


def warp_nearest(
    maps: Sequence[Tensor], geometry: Tensor, out_size: tuple[int, int], *, content_sizes: Tensor, fill: int
) -> Tensor:
    """Moves maps of any sizes into one padded batch; a pixel gets the label of the raw pixel that its centre lies in.

    Pixel (i, j) covers [j, j + 1) x [i, i + 1) in (x, y), so a resize is PIL's `resize` with NEAREST. Geometry and
    content_sizes are read by the host and must be on the CPU: nothing waits for a GPU.

    Args:
        maps: B tensors (h, w) uint8, on the device of the output.
        geometry: (B, 3, 3) float, homogeneous, from raw to output coordinates (x, y).
        out_size: (H, W) of the batch.
        content_sizes: (B, 2) integer, height and width of what is drawn of each map, at the top left.
        fill: the label outside the content, and where the content lies outside the raw map.

    Returns:
        (B, H, W) uint8.

    Raises:
        ValueError: for a map that is not (h, w) uint8, a content that exceeds out_size, matrices that cannot be
            inverted, are not on the CPU or not one for each map.
    """
    expect("warp_nearest", geometry=(geometry, "B 3 3"), content_sizes=(content_sizes, "B 2"))
    if geometry.device.type != "cpu" or len(maps) != len(geometry):
        raise ValueError(
            f"warp_nearest: {len(geometry)} geometries on {geometry.device} for {len(maps)} maps; "
            "must be one for each, on the CPU"
        )
    device = maps[0].device if maps else geometry.device
    out = torch.full((len(maps), *out_size), fill, dtype=torch.uint8, device=device)
    rows = zip(maps, geometry.double(), content_sizes.tolist(), strict=True)
    for index, (labels, matrix, (height, width)) in enumerate(rows):
        if height == 0 or width == 0 or labels.numel() == 0:
            continue  # an empty row of the batch, whatever its matrix is
        if labels.dtype != torch.uint8 or labels.dim() != 2:
            raise ValueError(f"map {index}: {tuple(labels.shape)} {labels.dtype}, warp_nearest needs (h, w) uint8")
        if height > out_size[0] or width > out_size[1] or min(height, width) < 0:
            raise ValueError(f"map {index}: content {(height, width)} does not fit the output {out_size}")
        inverse, info = torch.linalg.inv_ex(matrix)
        if info or not inverse.isfinite().all():
            raise ValueError(f"map {index}: geometry {matrix.tolist()} is not invertible")
        _draw(labels, inverse.tolist(), out[index, :height, :width], fill)
    return out


def _draw(labels: Tensor, inverse: list[list[float]], canvas: Tensor, fill: int) -> None:
    """Fills the canvas with the labels at the places that its pixels' centres come from."""
    raw_height, raw_width = labels.shape
    bordered = torch.nn.functional.pad(labels, (1, 1, 1, 1), value=fill)  # what lies outside comes from the border
    (a, b, tx), (c, d, ty), (g, h, one) = inverse
    x = torch.arange(canvas.shape[1], dtype=torch.float64, device=labels.device) + 0.5
    y = torch.arange(canvas.shape[0], dtype=torch.float64, device=labels.device) + 0.5
    if g or h or one != 1:
        depth = g * x + (h * y + one)[:, None]
        ahead = depth > _HORIZON
        u, v = ((p * x + (q * y + r)[:, None]) / depth for p, q, r in ((a, b, tx), (c, d, ty)))
        columns, rows = (_places(torch.where(ahead, at, -1), raw) for at, raw in ((u, raw_width), (v, raw_height)))
        canvas.copy_(bordered[rows, columns])
    elif abs(b) * canvas.shape[0] < _WHOLE and abs(c) * canvas.shape[1] < _WHOLE:
        columns, rows = _places(a * x + tx, raw_width), _places(d * y + ty, raw_height)
        canvas.copy_(bordered.index_select(0, rows).index_select(1, columns))
    else:
        columns = _places((a * x).float() + (b * y + tx).float()[:, None], raw_width)
        rows = _places((c * x).float() + (d * y + ty).float()[:, None], raw_height)
        places = rows.mul_(raw_width + 2).add_(columns)
        canvas.copy_(bordered.reshape(-1).index_select(0, places.reshape(-1)).view(places.shape))


def _places(coordinates: Tensor, raw: int) -> Tensor:
    """The pixels, counted from that of the border, which coordinates along an axis lie in."""
    return coordinates.clamp_(-1, raw).floor_().to(torch.int32).add_(1)
