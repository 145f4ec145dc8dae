"""Masks from outlines and into images."""

from collections.abc import Iterator

import torch

from detcore import ops
from detcore.ops.masks import paste_masks_reference, polygon_roi_masks_reference
from detcore.structures.batch import Polygons
from op_cases.case import Case, boxes


def mask_cases(device: str) -> Iterator[Case]:
    cuda = device == "cuda"
    masks, own = torch.rand((100, 28, 28), device=device), boxes(100, 700, 300, device)
    yield Case(
        "paste_masks, 100 masks on 800x1333",
        lambda: ops.paste_masks(masks, own, (800, 1333), 0.5),
        lambda: paste_masks_reference(masks, own, (800, 1333), 0.5),
        0.2 if cuda else 20.0,
    )
    angles = torch.arange(50, device=device) * (6.2832 / 50)
    circle = torch.stack((angles.cos(), angles.sin()), dim=1) * 60
    centres = torch.rand((2, 20, 1, 2), device=device) * 700
    starts = torch.arange(0, 1000, 50, device=device).repeat(2, 1)
    objects = torch.arange(20, device=device).repeat(2, 1)
    outlines = Polygons((centres + circle).reshape(2, 1000, 2), starts, torch.full_like(starts, 50), objects)
    matched = torch.randint(0, 20, (2, 128), device=device)
    rois = torch.cat((centres - 50, centres + 50), dim=-1)[:, :, 0].gather(1, matched[..., None].expand(-1, -1, 4))
    yield Case(
        "polygon_roi_masks 28x28, 2 x 128 boxes",
        lambda: ops.polygon_roi_masks(outlines, rois, matched, 28),
        lambda: polygon_roi_masks_reference(outlines, rois, matched, 28),
        0.1 if cuda else 20.0,
    )
