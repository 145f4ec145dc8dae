"""Deformable convolution: a convolution whose taps are moved by offsets learned per position."""

import torch
import torchvision
from torch import Tensor

from detcore.ops import native
from detcore.ops.deform_columns import convolve
from detcore.ops.shapes import expect

_FAR = 1e6
"""An offset that leads outside of every feature map, where samples are 0."""


def deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution v1 (Dai et al. 2017), and v2 (Zhu et al. 2019) if a mask is given.

    Under autocast the input, weight, bias and mask are cast to its dtype; the offsets stay as they are. Samples are
    interpolated in fp32 (fp64 of a float64 input). With torch.use_deterministic_algorithms(True) the input's gradient
    on CUDA is summed in fixed point, with 40 or more bits below the largest that it may be; a number in it that is not
    finite then makes it NaN everywhere.

    Args:
        input: (B, C, H, W) float, of any memory format.
        offset: (B, 2 G kh kw, out H, out W) float, pairs (dy, dx) for each of G offset groups and each tap. A tap with
            an infinite or NaN offset reads 0, and has gradient 0.
        weight: (out C, C / groups, kh, kw); the number of groups follows from C.
        bias: (out C,) or None.
        stride: of the output positions.
        padding: zeros around the input.
        dilation: distance of the taps.
        mask: (B, G kh kw, out H, out W), factors of the samples, or None for 1.

    Returns:
        (B, out C, out H, out W) in the dtype of the input; differentiable in every tensor.

    Raises:
        ValueError: if the shapes do not fit each other.
    """
    pairs = [_pair(stride), _pair(padding), _pair(dilation)]
    expect(
        "deform_conv2d",
        input=(input, "B C _ _"),
        offset=(offset, "B _ H W"),
        weight=(weight, "O _ _ _"),
        bias=(bias, "O"),
        mask=(mask, "B _ H W"),
    )
    _check(input, offset, weight, mask, *pairs)
    if native.serves(input.device.type):
        return convolve(input, offset, weight, bias, mask, *pairs)
    return deform_conv2d_reference(input, offset, weight, bias, stride, padding, dilation, mask)


def deform_conv2d_reference(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    mask: Tensor | None = None,
) -> Tensor:
    """`deform_conv2d` by torchvision's operator, on offsets made harmless to it."""
    dtype = input.dtype
    accurate = torch.promote_types(dtype, torch.float32)
    # torchvision's kernels read out of bounds at NaN.
    offset = offset.to(accurate).nan_to_num(nan=_FAR, posinf=_FAR, neginf=-_FAR)
    bias = None if bias is None else bias.to(accurate)
    mask = None if mask is None else mask.to(accurate)
    out: Tensor = torchvision.ops.deform_conv2d(
        input.to(accurate), offset, weight.to(accurate), bias, stride, padding, dilation, mask
    )
    return out.to(dtype)


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _check(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> None:
    batch, channels = input.shape[:2]
    if min(weight.shape[1:]) < 1 or min(stride + dilation) < 1 or min(padding) < 0:
        raise ValueError(
            f"deform_conv2d: weight {list(weight.shape)}, stride {stride}, dilation {dilation} and padding {padding}; "
            "must be positive, the padding not negative"
        )
    taps = weight.shape[2] * weight.shape[3]
    size = [
        (length + 2 * pad - step * (kernel - 1) - 1) // jump + 1
        for length, pad, step, kernel, jump in zip(
            input.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True
        )
    ]
    groups = channels // max(weight.shape[1], 1)
    if weight.shape[1] * groups != channels or weight.shape[0] % max(groups, 1):
        raise ValueError(f"deform_conv2d: a weight of {list(weight.shape)} fits no input of {channels} channels")
    offset_groups = offset.shape[1] // (2 * taps)
    if offset.shape[1] % (2 * taps) or not offset_groups or channels % offset_groups:
        raise ValueError(
            f"deform_conv2d: offset has {offset.shape[1]} channels; must be {2 * taps} times a divisor of {channels}"
        )
    if list(offset.shape[2:]) != size or offset.shape[0] != batch:
        raise ValueError(f"deform_conv2d: offset is {list(offset.shape)}; must be ({batch}, ..., {size[0]}, {size[1]})")
    if mask is not None and list(mask.shape) != [batch, offset_groups * taps, *size]:
        raise ValueError(f"deform_conv2d: mask is {list(mask.shape)}; must be {[batch, offset_groups * taps, *size]}")
