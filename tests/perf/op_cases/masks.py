"""Masks from outlines, into images, and to run lengths."""

from collections.abc import Iterator

import torch

from detcore import ops
from detcore.ops.mask_rle import paste_masks_rle_reference
from detcore.ops.masks import paste_masks_reference, polygon_roi_masks_reference
from detcore.structures.batch import Polygons
from op_cases.case import Case, boxes, size_of


def mask_cases(device: str) -> Iterator[Case]:
    yield from _pasting(device)
    yield _drawing(device)


def _pasting(device: str) -> Iterator[Case]:
    cuda, size = device == "cuda", (800, 1333)
    masks = torch.rand((100, 28, 28), device=device)
    # The benchmark's usual boxes, a 50th of the image each on average, and boxes of half of it: the worst to be pasted.
    for kind, own in (("", boxes(100, 700, 300, device)), (", large boxes", boxes(100, 100, 10, device))):
        if kind:
            own[:, 2:] = own[:, :2] + torch.tensor([1000.0, 600.0], device=device)
        yield Case(
            f"paste_masks, 100 masks on 800x1333{kind}, fp32",
            lambda b=own: ops.paste_masks(masks, b, size, 0.5),
            lambda b=own: paste_masks_reference(masks, b, size, 0.5),
            0.2 if cuda else 20.0,
            moved=100 * size[0] * size[1] + size_of(masks, own),
        )
    own = boxes(100, 700, 300, device)
    on_host = own.cpu()
    smooth = torch.nn.functional.avg_pool2d(masks, 9, 1, 4)  # outlines as a mask head gives them, not noise
    yield Case(
        "paste_masks_rle, 100 masks on 800x1333, boxes on the host, fp32",
        lambda: ops.paste_masks_rle(smooth, on_host, size, 0.5),
        lambda: paste_masks_rle_reference(smooth, own, size, 0.5),
        2.0 if cuda else 20.0,
        moved=size_of(masks, own),
    )


def _drawing(device: str) -> Case:
    cuda = device == "cuda"
    batch = 16 if cuda else 2
    angles = torch.arange(50, device=device) * (6.2832 / 50)
    circle = torch.stack((angles.cos(), angles.sin()), dim=1) * 60
    centres = torch.rand((batch, 20, 1, 2), device=device) * 700
    starts = torch.arange(0, 1000, 50, device=device).repeat(batch, 1)
    objects = torch.arange(20, device=device).repeat(batch, 1)
    vertices = (centres + circle).reshape(batch, 1000, 2)
    outlines = Polygons(vertices, starts, torch.full_like(starts, 50), objects)
    matched = torch.randint(0, 20, (batch, 128), device=device)
    rois = torch.cat((centres - 50, centres + 50), dim=-1)[:, :, 0].gather(1, matched[..., None].expand(-1, -1, 4))
    return Case(
        f"polygon_roi_masks 28x28, {batch} x 128 boxes, fp32",
        lambda: ops.polygon_roi_masks(outlines, rois, matched, 28),
        lambda: polygon_roi_masks_reference(outlines, rois, matched, 28),
        0.1 if cuda else 20.0,
        moved=batch * 128 * 28 * 28 + size_of(vertices, rois, matched),
    )
