"""Back from the network's input to the raw image."""

import torch
import torch.nn.functional as F
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


def semantic_to_original(semantic: Tensor, batch: Batch, row: int) -> Tensor:
    """Logits of one image's pixels, brought to the size of the raw image.

    Enlarged bilinearly to the network's input, cut to the content, then sampled bilinearly where `batch.geometry` puts
    the centres of the raw image's pixels. Reads the image's sizes from the device.

    Args:
        semantic: (B, C, h, w) float, `Detections.semantic`.
        batch: what they were predicted from.
        row: the image.

    Returns:
        (C, height, width), float32 or wider.
    """
    (height, width), (content_height, content_width) = (
        batch.original_sizes[row].tolist(),
        batch.image_sizes[row].tolist(),
    )
    logits = semantic[row : row + 1].to(torch.promote_types(semantic.dtype, torch.float32))
    logits = F.interpolate(logits, size=batch.images.shape[-2:], mode="bilinear", align_corners=False)
    logits = logits[..., :content_height, :content_width]
    y, x = (torch.arange(side, dtype=torch.float64, device=logits.device) + 0.5 for side in (height, width))
    raw = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    geometry = batch.geometry[row].double()
    placed = raw @ geometry[:2, :2].T + geometry[:2, 2]
    grid = torch.stack((placed[..., 0] / content_width, placed[..., 1] / content_height), dim=-1) * 2 - 1
    return F.grid_sample(logits, grid[None].to(logits.dtype), padding_mode="border", align_corners=False)[0]
