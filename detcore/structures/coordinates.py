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
    # The geometry of an empty row may be singular.
    identity = torch.eye(3, dtype=torch.float64, device=boxes.device)
    geometry = torch.where(batch.real[:, None, None], batch.geometry.double(), identity)
    inverse = torch.linalg.inv(geometry)
    corners = torch.stack((boxes[..., [0, 2, 0, 2]], boxes[..., [1, 1, 3, 3]]), dim=-1)  # (B, D, 4 corners, 2)
    linear, shift = inverse[:, None, :2, :2], inverse[:, None, None, :2, 2]
    mapped = corners @ linear.transpose(-1, -2) + shift
    sizes_wh = batch.original_sizes.flip(-1).double()[:, None, :]
    low = mapped.amin(dim=2).clamp(min=0.0).minimum(sizes_wh)
    high = mapped.amax(dim=2).clamp(min=0.0).minimum(sizes_wh)
    return torch.cat((low, high), dim=-1)
