"""A convolution with what follows it: bias, residual and ReLU in the convolution's own kernel, or in one pass after it.

A pass over a feature map takes as long as many a convolution that makes it: on an H200, adding the bias, adding the
residual and the ReLU as operators of their own takes three to eight times as long as a 1x1 convolution of a ResNet.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detcore.ops import native
from detcore.ops.shapes import expect

_HALF = (torch.bfloat16, torch.float16)


def conv2d_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """act(conv2d(input, weight) + bias + residual), fused on CUDA in half precision, as under autocast.

    Args:
        input: (B, C, H, W).
        weight: (O, C / groups, k, k).
        bias: (O,).
        stride, padding, dilation, groups: as `torch.nn.functional.conv2d`'s.
        residual: None; or as the output; or of half its height and width, each of whose pixels is taken four times
            (nearest neighbour). The fused form rounds once for all; where cuDNN has none (groups, no ReLU, a smaller
            residual), once after the convolution and once after the rest.
        relu: whether the activation is a ReLU, or none.

    Returns:
        (B, O, H', W'), channels_last where it is fused; differentiable in every tensor.

    Raises:
        ValueError: tensors' shapes do not fit each other.
    """
    expect(
        "conv2d_act",
        input=(input, "B _ H W"),
        weight=(weight, "O _ k _"),
        bias=(bias, "O"),
        residual=(residual, "B O _ _"),
    )
    if input.is_cuda and _computed_in(input) in _HALF and native.serves("cuda"):
        pairs = [[value, value] for value in (stride, padding, dilation)]
        fused: Tensor = torch.ops.detcore.conv2d_act(input, weight, bias, residual, *pairs, groups, relu)
        return fused
    out = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    expect_residual("conv2d_act", residual, out.shape[2:])
    return added(out, residual, relu=relu)


def expect_residual(operator: str, residual: Tensor | None, size: Sequence[int]) -> None:
    """Raises ValueError for one that has neither the output's height and width nor half of them."""
    if residual is None or torch.compiler.is_compiling():  # a graph for all sizes would be bound to what is compared
        return
    own, wanted = tuple(residual.shape[2:]), tuple(size)
    if own != wanted and tuple(2 * side for side in own) != wanted:
        raise ValueError(
            f"{operator}: residual is {tuple(residual.shape)}, must have the output's height and width {wanted}, "
            "or half of both"
        )


def added(x: Tensor, residual: Tensor | None, *, relu: bool) -> Tensor:
    """The rest of `conv2d_act` in torch's own operators, for what has been convolved otherwise."""
    if residual is not None:
        if residual.shape[-2:] != x.shape[-2:]:
            residual = F.interpolate(residual, size=x.shape[-2:], mode="nearest")
        x = x + residual
    return F.relu(x, inplace=True) if relu else x


def _computed_in(input: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else input.dtype


def _output_size(
    input: Tensor, weight: Tensor, stride: list[int], padding: list[int], dilation: list[int]
) -> list[Any]:
    sides = zip(input.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    return [
        input.shape[0],
        weight.shape[0],
        *((side + 2 * pad - spread * (kernel - 1) - 1) // step + 1 for side, kernel, step, pad, spread in sides),
    ]


def _fake(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    relu: bool,
) -> Tensor:
    size = _output_size(input, weight, stride, padding, dilation)
    return torch.empty(size, dtype=input.dtype, device=input.device, memory_format=torch.channels_last)


def _run(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    relu: bool,
) -> Tensor:
    input, weight = (tensor.contiguous(memory_format=torch.channels_last) for tensor in (input, weight))
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    size = _output_size(input, weight, stride, padding, dilation)
    expect_residual("conv2d_act", residual, size[2:])
    alike = residual is None or list(residual.shape) == size
    if input.is_cuda and relu and groups == 1 and input.numel() and alike:
        half = bias.to(input.dtype)
        if residual is None:
            return torch.cudnn_convolution_relu(input, weight, half, stride, padding, dilation, groups)
        return torch.cudnn_convolution_add_relu(input, weight, residual, 1.0, half, stride, padding, dilation, groups)
    x = torch.convolution(input, weight, None, stride, padding, dilation, False, [0, 0], groups)
    out: Tensor = torch.ops.detcore.finish_conv(x.contiguous(memory_format=torch.channels_last), bias, residual, relu)
    return out


def finish_conv_reference(x: Tensor, bias: Tensor, residual: Tensor | None, relu: bool) -> Tensor:
    """What a convolution leaves to do, (B, C, H, W) and (C,), in float32 or float64, rounded to the dtype of `x`."""
    wide = torch.promote_types(x.dtype, torch.float32)
    residual = None if residual is None else residual.to(wide)
    out = added(x.to(wide) + bias.to(wide).view(-1, 1, 1), residual, relu=relu).to(x.dtype)
    return out.contiguous(memory_format=torch.channels_last)


def sum_quads_reference(grad: Tensor) -> Tensor:
    """(B, C, 2 h, 2 w) -> (B, C, h, w): the sum of every 2 x 2 pixels."""
    return F.avg_pool2d(grad, 2, divisor_override=1).contiguous(memory_format=torch.channels_last)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bias, residual, ctx.stride, ctx.padding, ctx.dilation, ctx.groups, ctx.relu = inputs
    ctx.bias_dtype, ctx.residual_size = bias.dtype, None if residual is None else residual.shape[-2:]
    ctx.save_for_backward(input, weight, *([output] if ctx.relu else []))


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    input, weight, *output = ctx.saved_tensors
    if ctx.relu:
        grad = torch.ops.aten.threshold_backward(grad, output[0], 0)
    wanted = list(ctx.needs_input_grad[:3])
    of_input, of_weight, of_bias = torch.ops.aten.convolution_backward(
        grad, input, weight, [weight.shape[0]], ctx.stride, ctx.padding, ctx.dilation, False, [0, 0], ctx.groups, wanted
    )
    of_residual = None
    if ctx.needs_input_grad[3]:
        same = ctx.residual_size == grad.shape[-2:]
        of_residual = grad if same else torch.ops.detcore.sum_quads(grad.contiguous(memory_format=torch.channels_last))
    of_bias = None if of_bias is None else of_bias.to(ctx.bias_dtype)
    return of_input, of_weight, of_bias, of_residual, None, None, None, None, None


def _autocast(
    dtype: torch.dtype, input: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, *rest: Any
) -> Tensor:
    """The bias stays as it is: it is added in float32 where that costs nothing."""
    residual = None if residual is None else residual.to(dtype)
    out: Tensor = torch.ops.detcore.conv2d_act(input.to(dtype), weight.to(dtype), bias, residual, *rest)
    return out


native.define(
    "conv2d_act",
    "(Tensor input, Tensor weight, Tensor bias, Tensor? residual, int[2] stride, int[2] padding, int[2] dilation, "
    "int groups, bool relu) -> Tensor",
    _fake,
    save=_save,
    backward=_backward,
    autocast=_autocast,
)
torch.library.impl("detcore::conv2d_act", ("cpu", "cuda"), _run)
native.define(
    "finish_conv",
    "(Tensor x, Tensor bias, Tensor? residual, bool relu) -> Tensor",
    lambda x, bias, residual, relu: torch.empty_like(x, memory_format=torch.channels_last),
)
torch.library.impl("detcore::finish_conv", "cpu", finish_conv_reference)
native.define(
    "sum_quads",
    "(Tensor grad) -> Tensor",
    lambda grad: torch.empty_like(grad[..., ::2, ::2], memory_format=torch.channels_last),
)
torch.library.impl("detcore::sum_quads", "cpu", sum_quads_reference)
