"""The reference for what no resize is: rotation, shear, perspective."""

import math

import torch
from torch import Tensor

_MIN_SUPERSAMPLING, _MAX_SUPERSAMPLING = 4, 16

_HORIZON = 1e-3
"""What a perspective takes nearer to its horizon than this, is out of sight."""


def supersample(image: Tensor, matrix: list[list[float]], height: int, width: int) -> tuple[Tensor, Tensor]:
    """Grey levels (height, width, 3) float32 and the share (height, width) float32 of each pixel in the raw image.

    A sample in the raw image interpolates between the pixel centres around it, the image's border being repeated. As
    many samples an axis as raw pixels fall on an output pixel, within limits.
    """
    raw_height, raw_width, _ = image.shape
    inverse = torch.tensor(matrix, dtype=torch.float64).inverse()
    density = math.ceil(_most_raw_pixels(inverse, height, width))
    count = min(max(density, _MIN_SUPERSAMPLING), _MAX_SUPERSAMPLING)
    planes = image.permute(2, 0, 1)[None].float().contiguous()
    # grid_sample's coordinates run from -1 to 1 between the image's outer edges.
    to_grid = torch.tensor([[2 / raw_width, 0, -1], [0, 2 / raw_height, -1], [0, 0, 1]], dtype=torch.float64) @ inverse
    a, b = to_grid[:, :2, None, None].unbind(1)
    corner = (a * torch.arange(width) + b * torch.arange(height)[:, None] + to_grid[:, 2:, None]).permute(1, 2, 0)[None]
    corner = corner.to(image.device, torch.float32)
    total = torch.zeros((1, 3, height, width), device=image.device)
    coverage = torch.zeros((height, width), device=image.device)
    steps = [(step + 0.5) / count for step in range(count)]
    for offset in (to_grid[:, :2] @ torch.tensor([[dx, dy] for dy in steps for dx in steps]).double().T).T.float():
        moved = _projected(corner + offset.to(image.device))
        inside = (moved[0].abs().amax(dim=-1) <= 1).float()
        sample = torch.nn.functional.grid_sample(planes, moved, padding_mode="border", align_corners=False)
        total += sample.mul_(inside)
        coverage += inside
    pixels = total.div_(coverage.clamp(min=1)).round_()[0].permute(1, 2, 0)
    return pixels, coverage / count**2


def _most_raw_pixels(inverse: Tensor, height: int, width: int) -> float:
    """How many raw pixels at most an output pixel is long, told by the four corners of the content."""
    corners = torch.tensor([[x, y, 1.0] for x in (0, width) for y in (0, height)], dtype=torch.float64) @ inverse.T
    ahead = corners[corners[:, 2] > _HORIZON]
    # The derivative of (u / w, v / w), the numerators and the denominator being linear.
    slopes = (inverse[:2, :2] - (ahead[:, :2] / ahead[:, 2:])[..., None] * inverse[2, :2]) / ahead[:, 2, None, None]
    return float(torch.linalg.matrix_norm(slopes, 2).amax()) if len(ahead) else float(_MAX_SUPERSAMPLING)


def _projected(places: Tensor) -> Tensor:
    """Homogeneous places (..., 3) to (..., 2); those behind the horizon lie outside."""
    depth = places[..., 2:]
    return torch.where(depth > _HORIZON, places[..., :2] / depth.clamp(min=_HORIZON), 2.0)
