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


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """(B, N, C) and (B, K) int64 -> (B, K, C): rows of each image. `Tensor.take_along_dim` would fix N in a graph."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


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
        (x, y), (width, height) = _centre_and_size(references_xyxy)
        (box_x, box_y), (box_width, box_height) = _centre_and_size(boxes_xyxy)
        width, height, box_width, box_height = (
            side.clamp(min=SMALLEST_SIDE) for side in (width, height, box_width, box_height)
        )
        offsets = ((box_x - x) / width, (box_y - y) / height, (box_width / width).log(), (box_height / height).log())
        # One by one: a tensor of the weights would have to be copied to the device.
        return torch.stack([offset * weight for offset, weight in zip(offsets, self.weights, strict=True)], dim=-1)

    def decode(self, references_xyxy: Tensor, offsets: Tensor) -> Tensor:
        """(..., 4), (..., 4) -> (..., 4) boxes, in the wider of both dtypes but never below float32."""
        parts = at_least_float32(offsets).unbind(-1)
        dx, dy, grow_x, grow_y = (part / weight for part, weight in zip(parts, self.weights, strict=True))
        (x, y), (width, height) = _centre_and_size(references_xyxy)
        x, y = x + dx * width, y + dy * height
        half_width = 0.5 * width * grow_x.clamp(max=self.scale_clamp).exp()
        half_height = 0.5 * height * grow_y.clamp(max=self.scale_clamp).exp()
        return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=-1)


def _centre_and_size(boxes_xyxy: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    x1, y1, x2, y2 = boxes_xyxy.unbind(-1)
    width, height = x2 - x1, y2 - y1
    return (x1 + 0.5 * width, y1 + 0.5 * height), (width, height)
