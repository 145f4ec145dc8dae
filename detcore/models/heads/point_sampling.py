"""Features and masks at single points: PointRend, arXiv:1912.08193, sections 3.1 and 3.2.

Points are (x, y) in [0, 1] x [0, 1] of their box, from its upper left corner.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from detcore.structures.boxes import at_least_float32


def features_at(features: Tensor, stride: int, boxes_xyxy: Tensor, points: Tensor) -> Tensor:
    """A feature map at points of boxes, bilinearly; 0 outside of the map.

    Args:
        features: (B, C, h, w).
        stride: of the map, in pixels.
        boxes_xyxy: (B, R, 4), pixels.
        points: (B, R, N, 2).

    Returns:
        (B, R, N, C), at least float32: coordinates of less would miss their places.
    """
    features = at_least_float32(features)
    height, width = features.shape[-2:]
    corner, size = boxes_xyxy[..., None, :2], (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2])[..., None, :]
    x, y = (corner + points * size).unbind(-1)
    grid = torch.stack((2 * x / (width * stride) - 1, 2 * y / (height * stride) - 1), dim=-1)
    return F.grid_sample(features, grid.to(features.dtype), align_corners=False).permute(0, 2, 3, 1)


def masks_at(masks: Tensor, points: Tensor) -> Tensor:
    """Masks of boxes at points of these, bilinearly: (K, C, S, S) and (K, N, 2) -> (K, N, C), at least float32."""
    masks = at_least_float32(masks)
    grid = (2 * points - 1)[:, :, None].to(masks.dtype)
    return F.grid_sample(masks, grid, align_corners=False).squeeze(-1).transpose(1, 2)


def drawn_at(drawn: Tensor, points: Tensor) -> Tensor:
    """The pixel of a drawn mask that each point lies in: (K, S, S) and (K, N, 2) -> (K, N)."""
    size = drawn.shape[-1]
    column, row = (points * size).long().clamp(0, size - 1).unbind(-1)
    return drawn.flatten(1).gather(1, row * size + column)


def centres(index: Tensor, size: int) -> Tensor:
    """Centres of a size x size mask's pixels, numbered row by row: (...) int64 -> (..., 2) float32."""
    row = index.div(size, rounding_mode="floor")
    return (torch.stack((index - row * size, row), dim=-1).float() + 0.5) / size


def grid_centres(size: int, device: torch.device) -> Tensor:
    """Centres of all pixels of a size x size mask: (size * size, 2) float32."""
    return centres(torch.arange(size * size, device=device), size)


def least_certain(logits: Tensor, count: int) -> Tensor:
    """(K, N) logits -> (K, count) int64, the places where they are nearest to 0."""
    return logits.abs().topk(count, dim=1, largest=False).indices
