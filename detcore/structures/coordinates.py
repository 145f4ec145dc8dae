"""Back from the network's input to the raw image."""

import torch
from torch import Tensor

from detcore.structures.batch import Batch


def boxes_to_original(boxes_xyxy: Tensor, batch: Batch) -> Tensor:
    """Boxes in pixels of the network's input -> pixels of each raw image, clipped to it.

    The inverse of `batch.geometry`, in float64. Under rotation or shear: the envelope of the box's corners.

    Args:
        boxes_xyxy: (B, D, 4), any float dtype.
        batch: what the boxes were predicted from; gives geometry, original sizes and which rows are real.

    Returns:
        (B, D, 4) float64. Rows of empty images are finite and mean nothing.
    """
    boxes = boxes_xyxy.double()
    inverse = _to_original(batch, boxes.device)
    corners = torch.stack((boxes[..., [0, 2, 0, 2]], boxes[..., [1, 1, 3, 3]]), dim=-1)  # (B, D, 4 corners, 2)
    linear, shift = inverse[:, None, :2, :2], inverse[:, None, None, :2, 2]
    mapped = corners @ linear.transpose(-1, -2) + shift
    sizes_wh = batch.original_sizes.flip(-1).double()[:, None, :]
    low = mapped.amin(dim=2).clamp(min=0.0).minimum(sizes_wh)
    high = mapped.amax(dim=2).clamp(min=0.0).minimum(sizes_wh)
    return torch.cat((low, high), dim=-1)


def points_to_original(points: Tensor, batch: Batch) -> Tensor:
    """Points (B, N, 2) in pixels of the network's input -> (B, N, 2) float64, pixels of each raw image; not clipped."""
    inverse = _to_original(batch, points.device)
    return points.double() @ inverse[:, :2, :2].transpose(-1, -2) + inverse[:, None, :2, 2]


def keypoints_to_original(keypoints: Tensor, batch: Batch) -> Tensor:
    """Keypoints (B, D, K, 3), as in `Detections` -> float64, x and y in pixels of each raw image; not clipped."""
    points = points_to_original(keypoints[..., :2].flatten(1, 2), batch)
    return torch.cat((points.view_as(keypoints[..., :2]), keypoints[..., 2:].double()), dim=-1)


def rotated_to_original(boxes_xywha: Tensor, batch: Batch) -> Tensor:
    """Rotated boxes in pixels of the network's input -> pixels of each raw image; not clipped.

    Where the way back keeps no right angles: the box whose corners lie nearest, in the least squares, to the mapped
    ones. Of the two directions along a box, it gets that at which its height is nearer to where it is taken.

    Args:
        boxes_xywha: (B, D, 5), as in `Detections`.
        batch: as in `boxes_to_original`.

    Returns:
        (B, D, 5) float64, angles in [-180, 180].
    """
    boxes = boxes_xywha.double()
    linear = _to_original(batch, boxes.device)[:, :2, :2].transpose(-1, -2)
    angle = torch.deg2rad(boxes[..., 4])
    right, down = torch.stack((angle.cos(), -angle.sin()), dim=-1), torch.stack((angle.sin(), angle.cos()), dim=-1)
    right, down = (right * boxes[..., 2:3]) @ linear, (down * boxes[..., 3:4]) @ linear
    # Of all directions u with normal n, the one with the largest (right . u)² + (down . n)²: an eigenvector in 2 x 2.
    across = torch.stack((down[..., 1], -down[..., 0]), dim=-1)
    squares = (right.square() + across.square()).unbind(-1)
    product = right.prod(dim=-1) + across.prod(dim=-1)
    turn = 0.5 * torch.atan2(2 * product, squares[0] - squares[1])
    along = torch.stack((turn.cos(), turn.sin()), dim=-1)
    normal = torch.stack((-turn.sin(), turn.cos()), dim=-1)
    width, height = (right * along).sum(dim=-1).abs(), (down * normal).sum(dim=-1)
    normal = torch.where(height[..., None] < 0, -normal, normal)
    angle = torch.rad2deg(torch.atan2(normal[..., 0], normal[..., 1]))
    centre = points_to_original(boxes[..., :2], batch)
    return torch.cat((centre, torch.stack((width, height.abs(), angle), dim=-1)), dim=-1)


def _to_original(batch: Batch, device: torch.device) -> Tensor:
    """(B, 3, 3) float64 from the network's coordinates to the raw images'; the identity for empty rows."""
    # The geometry of an empty row may be singular.
    identity = torch.eye(3, dtype=torch.float64, device=device)
    geometry = torch.where(batch.real[:, None, None], batch.geometry.double(), identity)
    inverse: Tensor = torch.linalg.inv(geometry)
    return inverse
