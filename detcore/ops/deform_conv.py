"""Deformable convolution: a convolution whose taps are moved by offsets learned per position."""

import torch
import torchvision
from torch import Tensor

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

    Args:
        input: (B, C, H, W) float; bf16 and fp16 are computed in fp32.
        offset: (B, 2 G kh kw, out H, out W), pairs (dy, dx) for each of G offset groups and each tap. A tap with an
            infinite or NaN offset reads 0.
        weight: (out C, C / groups, kh, kw); the number of groups follows from C.
        bias: (out C,) or None.
        stride: of the output positions.
        padding: zeros around the input.
        dilation: distance of the taps.
        mask: (B, G kh kw, out H, out W), factors of the samples, or None for 1.

    Returns:
        (B, out C, out H, out W) in the dtype of the input; differentiable in every tensor.
    """
    dtype = input.dtype
    if dtype in (torch.bfloat16, torch.float16):
        input, offset, weight = input.float(), offset.float(), weight.float()
        bias = None if bias is None else bias.float()
        mask = None if mask is None else mask.float()
    # torchvision's kernels read out of bounds at NaN.
    offset = offset.nan_to_num(nan=_FAR, posinf=_FAR, neginf=-_FAR)
    out: Tensor = torchvision.ops.deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)
    return out.to(dtype)
