"""Predicted masks to COCO's run lengths, without the masks of whole images between."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detcore.ops import native
from detcore.ops.masks import checked_for_pasting, paste_masks
from detcore.ops.shapes import expect

_PASTED_PIXELS = 64 * 2**20
"""The reference pastes so many pixels at a time, to bound memory on large images."""


def paste_masks_rle(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float
) -> list[dict[str, Any]]:
    """`paste_masks`, straight to COCO's compressed run lengths.

    Equal to pycocotools' `encode` of each pasted mask. Only bits come from the device, and only those where a mask can
    be; the host waits for them once, and once more for the boxes if these are on the device.

    Args:
        masks: (K, S, S) float, probabilities.
        boxes: (K, 4), (x1, y1, x2, y2) in image pixels; best kept on the CPU.
        image_size: (height, width).
        threshold: above 0; a pixel belongs to the mask from this value on.

    Returns:
        K times {"size": [height, width], "counts": bytes}.

    Raises:
        ValueError: as `paste_masks`.
    """
    expect("paste_masks_rle", masks=(masks, "K S S"))
    expect("paste_masks_rle", boxes=(boxes, f"{len(masks)} 4"))  # apart: they may be on another device
    host = native.host()
    if host is None or not native.serves(masks.device.type):
        return paste_masks_rle_reference(masks, boxes, image_size, threshold)
    masks, boxes = checked_for_pasting(masks, boxes, image_size, threshold)
    windows = _windows(boxes.cpu(), masks.shape[-1], image_size)
    sides = (windows[:, 2:] - windows[:, :2]).clamp(min=0)
    words = sides[:, 0] * ((sides[:, 1] + 63) // 64)
    starts = words.cumsum(0) - words
    device = masks.device
    packed = torch.ops.detcore.pack_masks(
        masks,
        boxes.to(device, non_blocking=True),
        windows.to(device, non_blocking=True),
        starts.to(device, non_blocking=True),
        int(words.sum()),
        threshold,
    )
    counts = host.run_lengths(packed.cpu().numpy().view(np.uint64), starts.numpy(), windows.numpy(), *image_size)
    return [{"size": list(image_size), "counts": own} for own in counts]


def paste_masks_rle_reference(
    masks: Tensor, boxes: Tensor, image_size: tuple[int, int], threshold: float
) -> list[dict[str, Any]]:
    """`paste_masks_rle` by pycocotools."""
    at_once = max(1, _PASTED_PIXELS // max(1, image_size[0] * image_size[1]))
    boxes = boxes.to(masks.device)
    rles: list[dict[str, Any]] = []
    for start in range(0, len(masks), at_once):
        part = slice(start, start + at_once)
        rles += encode_masks(paste_masks(masks[part], boxes[part], image_size, threshold).cpu().numpy())
    return rles


def encode_masks(masks: NDArray[np.bool_] | Sequence[NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """Masks (K, height, width) as COCO's compressed run lengths, by pycocotools."""
    from pycocotools import mask as coco_mask

    return [
        {"size": list(mask.shape), "counts": coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))["counts"]}
        for mask in masks
    ]


def _windows(boxes: Tensor, size: int, image_size: tuple[int, int]) -> Tensor:
    """(K, 4) int64: columns and rows (x0, y0, x1, y1) that a mask can reach, half a mask pixel beyond its box."""
    usable = boxes.isfinite().all(dim=1) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    placed = torch.where(usable[:, None], boxes, 0)
    low, high = placed[:, :2], placed[:, 2:]
    margin = (high - low) / (2 * max(size, 1)) + 1
    end = torch.tensor([image_size[1], image_size[0]] * 2)
    corners = [(low - margin).floor(), (high + margin).ceil()]
    window = torch.cat(corners, dim=1).clamp(0, 2.0**62).long()  # before the limit, which a float may round up
    return torch.where(usable[:, None] & (size > 0), torch.minimum(window, end), 0)


def _fake_pack(masks: Tensor, boxes: Tensor, windows: Tensor, starts: Tensor, num_words: int, *_: Any) -> Tensor:
    return masks.new_empty((num_words,), dtype=torch.int64)


native.define(
    "pack_masks",
    "(Tensor masks, Tensor boxes, Tensor windows, Tensor starts, SymInt num_words, float threshold) -> Tensor",
    _fake_pack,
)
