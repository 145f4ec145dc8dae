"""Geometry of axis-aligned boxes, and the coding of boxes as offsets from others."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST_SIDE = 1e-6
"""Widths and heights are taken to be at least this when boxes are encoded, so that padding stays finite. Pixels."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half precisions to float32; float32 and float64 as they are. Box arithmetic and losses need the bits."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def area(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) -> (...,): width times height; boxes turned inside out count as empty."""
    width, height = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0.0).unbind(-1)
    return width * height


def iou(boxes1_xyxy: Tensor, boxes2_xyxy: Tensor) -> Tensor:
    """Intersection over union of every pair: (..., N, 4), (..., M, 4) -> (..., N, M). Two empty boxes have 0."""
    first, second = boxes1_xyxy[..., :, None, :], boxes2_xyxy[..., None, :, :]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = area(torch.cat((low, high), dim=-1))
    union = area(first) + area(second) - intersection
    return torch.where(union > 0, intersection / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def clip(boxes_xyxy: Tensor, image_sizes: Tensor) -> Tensor:
    """Boxes cut to the content of their image.

    Args:
        boxes_xyxy: (B, ..., 4).
        image_sizes: (B, 2) height and width.
    """
    sizes = image_sizes.to(boxes_xyxy.dtype).view(-1, *([1] * (boxes_xyxy.dim() - 2)), 2)
    height, width = sizes.unbind(-1)
    return boxes_xyxy.clamp(min=0.0).minimum(torch.stack((width, height, width, height), dim=-1))


def larger_than(boxes_xyxy: Tensor, size: float) -> Tensor:
    """(..., 4) -> (...,) bool: width and height are both above `size` pixels."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2] > size).all(dim=-1)


@dataclass(frozen=True, kw_only=True)
class BoxCoder:
    """Boxes as scaled offsets from reference boxes (anchors or proposals): R-CNN, arXiv:1311.2524, appendix C.

    Attributes:
        weights: what the offsets of centre x, centre y, log width and log height are multiplied by.
        scale_clamp: the largest log growth that is decoded, so that a wild prediction cannot overflow.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    scale_clamp: float = math.log(1000.0 / 16.0)

    def encode(self, references_xyxy: Tensor, boxes_xyxy: Tensor) -> Tensor:
        """(..., 4), (..., 4) -> (..., 4) offsets that `decode` turns back into the boxes."""
        centre, size = _centre_and_size(references_xyxy)
        box_centre, box_size = _centre_and_size(boxes_xyxy)
        size, box_size = size.clamp(min=SMALLEST_SIDE), box_size.clamp(min=SMALLEST_SIDE)
        offsets = torch.cat(((box_centre - centre) / size, torch.log(box_size / size)), dim=-1)
        return offsets * offsets.new_tensor(self.weights)

    def decode(self, references_xyxy: Tensor, offsets: Tensor) -> Tensor:
        """(..., 4), (..., 4) -> (..., 4) boxes, in the wider of both dtypes but never below float32."""
        offsets = at_least_float32(offsets)
        offsets = offsets / offsets.new_tensor(self.weights)
        centre, size = _centre_and_size(references_xyxy)
        new_centre = centre + offsets[..., :2] * size
        half = 0.5 * size * torch.exp(offsets[..., 2:].clamp(max=self.scale_clamp))
        return torch.cat((new_centre - half, new_centre + half), dim=-1)


def _centre_and_size(boxes_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    size = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    return boxes_xyxy[..., :2] + 0.5 * size, size
