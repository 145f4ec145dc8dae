"""Predicted classes of pixels, from the logits of a network's input to the raw image."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from detcore.ops.shapes import expect
from detcore.structures.batch import Batch

_PIXELS = 2**25
"""Logits that are enlarged at once, to bound memory on large images of many classes."""


def semantic_map(
    semantic: Tensor,
    batch: Batch,
    row: int,
    *,
    content_size: tuple[int, int] | None = None,
    image_size: tuple[int, int] | None = None,
) -> Tensor:
    """The class of every pixel of a raw image.

    Logits are enlarged to the network's input, cut to the image's content, and resized to the raw image, bilinearly
    (pixel centres at .5), for images that were resized and nothing else; then the highest counts, of equal ones the
    first.

    Args:
        semantic: (B, C, h, w) float logits at a stride of the network's input, `Detections.semantic`.
        batch: what they were predicted from.
        row: the image.
        content_size: height and width of its content in the network's input. None reads it from the batch, for which
            the host waits; it waits for nothing else.
        image_size: height and width of the raw image; likewise.

    Returns:
        (height, width) uint8 where there are at most 255 classes, else int64.
    """
    expect("semantic_map", semantic=(semantic, "B C H W"))
    content_size = content_size or _size(batch.image_sizes[row])
    image_size = image_size or _size(batch.original_sizes[row])
    input_size, logits = batch.images.shape[-2:], semantic[row]
    largest = max(input_size[0] * input_size[1], image_size[0] * image_size[1])
    step = max(1, _PIXELS // max(1, largest))
    best, classes = logits.new_full(image_size, -torch.inf, dtype=torch.float32), logits.new_zeros(image_size).long()
    for first in range(0, len(logits), step):
        part = logits[None, first : first + step].float()
        if part.shape[-2:] != input_size:
            part = interpolate(part, input_size, mode="bilinear", align_corners=False)
        part = part[..., : content_size[0], : content_size[1]]
        if part.shape[-2:] != image_size:
            part = interpolate(part, image_size, mode="bilinear", align_corners=False)
        highest, own = part[0].max(dim=0)
        classes = torch.where(highest > best, own + first, classes)
        best = torch.maximum(highest, best)
    return classes.to(torch.uint8) if len(logits) <= 255 else classes


def _size(size: Tensor) -> tuple[int, int]:
    height, width = size.tolist()
    return height, width
