"""Geometry of rotated boxes, and their coding as offsets from others.

A box is (cx, cy, w, h, angle): its centre and sides in pixels, and the angle in degrees by which it is turned about its
centre, counter-clockwise as one sees the image (y points down). (w, h, angle) and (w, h, angle + 180) cover the same
pixels, as do (w, h, angle) and (h, w, angle + 90): geometry cannot tell them apart, the numbers can.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detcore.structures.boxes import SMALLEST_SIDE, at_least_float32
from detcore.structures.boxes import clip as clip_upright

UPRIGHT_WITHIN_DEG = 1.0
"""Boxes turned by no more than this are clipped as if they were upright."""


def wrapped(angle_deg: Tensor) -> Tensor:
    """The same direction in [-180, 180) degrees."""
    return (angle_deg + 180.0).remainder(360.0) - 180.0


def area(boxes_xywha: Tensor) -> Tensor:
    """(..., 5) -> (...,): width times height; boxes with a negative side count as empty."""
    width, height = boxes_xywha[..., 2:4].clamp(min=0.0).unbind(-1)
    return width * height


def corners(boxes_xywha: Tensor) -> Tensor:
    """(..., 5) -> (..., 4, 2): x and y of what are, at angle 0, the top left, top right, bottom right, bottom left."""
    x, y, width, height, angle = boxes_xywha.unbind(-1)
    cos, sin = torch.deg2rad(angle).cos(), torch.deg2rad(angle).sin()
    right, down = torch.stack((cos, -sin), dim=-1), torch.stack((sin, cos), dim=-1)  # the box's own directions
    right, down = right * width[..., None] / 2, down * height[..., None] / 2
    offsets = torch.stack((-right - down, right - down, right + down, down - right), dim=-2)
    return torch.stack((x, y), dim=-1)[..., None, :] + offsets


def upright_around(boxes_xywha: Tensor) -> Tensor:
    """(..., 5) -> (..., 4) xyxy: the smallest upright boxes that hold the rotated ones."""
    x, y, width, height, angle = boxes_xywha.unbind(-1)
    cos, sin = torch.deg2rad(angle).cos().abs(), torch.deg2rad(angle).sin().abs()
    half_width, half_height = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return torch.stack((x - half_width, y - half_height, x + half_width, y + half_height), dim=-1)


def clip(boxes_xywha: Tensor, image_sizes: Tensor) -> Tensor:
    """Boxes turned by at most a degree cut to the content of their image; others, whose cut is no rectangle, are not.

    All angles come out in [-180, 180).

    Args:
        boxes_xywha: (B, ..., 5).
        image_sizes: (B, 2) height and width.
    """
    angle = wrapped(boxes_xywha[..., 4:])
    centre, size = boxes_xywha[..., :2], boxes_xywha[..., 2:4]
    cut = clip_upright(torch.cat((centre - size / 2, centre + size / 2), dim=-1), image_sizes)
    low, high = cut[..., :2], cut[..., 2:]
    # Rounding must not let a side grow.
    cut = torch.cat(((low + high) / 2, torch.minimum(size, high - low)), dim=-1)
    kept = torch.where(angle.abs() <= UPRIGHT_WITHIN_DEG, cut, boxes_xywha[..., :4])
    return torch.cat((kept, angle), dim=-1)


def larger_than(boxes_xywha: Tensor, size: float) -> Tensor:
    """(..., 5) -> (...,) bool: width and height are both above `size` pixels."""
    return (boxes_xywha[..., 2:4] > size).all(dim=-1)


@dataclass(frozen=True, kw_only=True)
class RotatedBoxCoder:
    """Rotated boxes as scaled offsets from reference boxes: RRPN, arXiv:1703.01086, section 4.2.

    As in `BoxCoder`, centres move along the image's axes, in widths and heights of the reference; the angle's offset is
    the turn in [-180, 180) degrees, told in radians.

    Attributes:
        weights: what the offsets of centre x, centre y, log width, log height and angle are multiplied by.
        scale_clamp: the largest log growth that is decoded, so that a wild prediction cannot overflow.
    """

    weights: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    scale_clamp: float = math.log(1000.0 / 16.0)

    def encode(self, references_xywha: Tensor, boxes_xywha: Tensor) -> Tensor:
        """(..., 5), (..., 5) -> (..., 5) offsets that `decode` turns back into the boxes."""
        x, y, width, height, angle = references_xywha.unbind(-1)
        box_x, box_y, box_width, box_height, box_angle = boxes_xywha.unbind(-1)
        width, height, box_width, box_height = (
            side.clamp(min=SMALLEST_SIDE) for side in (width, height, box_width, box_height)
        )
        grow_x, grow_y = (box_width / width).log(), (box_height / height).log()
        turn = torch.deg2rad(wrapped(box_angle - angle))
        offsets = ((box_x - x) / width, (box_y - y) / height, grow_x, grow_y, turn)
        # One by one: a tensor of the weights would have to be copied to the device.
        return torch.stack([offset * weight for offset, weight in zip(offsets, self.weights, strict=True)], dim=-1)

    def decode(self, references_xywha: Tensor, offsets: Tensor) -> Tensor:
        """(..., 5), (..., 5) -> (..., 5) boxes with angles in [-180, 180), in the wider dtype, at least float32."""
        parts = at_least_float32(offsets).unbind(-1)
        dx, dy, grow_x, grow_y, turn = (part / weight for part, weight in zip(parts, self.weights, strict=True))
        x, y, width, height, angle = references_xywha.unbind(-1)
        decoded = (
            x + dx * width,
            y + dy * height,
            width * grow_x.clamp(max=self.scale_clamp).exp(),
            height * grow_y.clamp(max=self.scale_clamp).exp(),
            wrapped(angle + torch.rad2deg(turn)),
        )
        return torch.stack(decoded, dim=-1)
