"""Group norm (Wu and He, arXiv:1803.08494) with what follows it, a residual and a ReLU, in as few passes as it takes.

PyTorch's own works on NCHW and, under autocast, in float32: a channels_last map in half precision is copied to it and
back around each norm.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detcore.ops import native
from detcore.ops.conv_act import added, expect_residual
from detcore.ops.shapes import expect

_MOST_PACKS = 256
"""Of 16 bytes, that the channels of a place may take up: the kernels give each a thread of a block."""


def group_norm_act(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    num_groups: int,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
) -> Tensor:
    """act(group_norm(input) * weight + bias + residual).

    On CUDA it is computed in float32 (float64 of float64) and rounded once, to the input's dtype: also under autocast,
    where torch's own operators, which run elsewhere, give float32.

    Args:
        input: (B, C, H, W).
        weight, bias: (C,).
        num_groups: into which the channels are divided.
        eps: added to the variance.
        residual: None; or as the input; or of half its height and width, see `conv2d_act`.
        relu: whether the activation is a ReLU, or none.

    Returns:
        As the input, channels_last on CUDA; differentiable in every tensor.

    Raises:
        ValueError: tensors' shapes do not fit each other, or the groups do not divide the channels.
    """
    expect(
        "group_norm_act",
        input=(input, "B C H W"),
        weight=(weight, "C"),
        bias=(bias, "C"),
        residual=(residual, "B C _ _"),
    )
    expect_residual("group_norm_act", residual, input.shape[2:])
    if num_groups < 1 or input.shape[1] % num_groups:
        raise ValueError(f"group_norm_act: {input.shape[1]} channels cannot be divided into {num_groups} groups")
    if 0 in input.shape[2:]:  # has no mean: torch's own refuses it
        return added(input * weight.view(-1, 1, 1) + bias.view(-1, 1, 1), residual, relu=relu).to(input.dtype)
    per_pack = 16 // input.element_size()
    if (
        input.is_cuda
        and input.shape[1] % per_pack == 0
        and input.shape[1] <= _MOST_PACKS * per_pack
        and native.serves("cuda")
    ):
        residual = None if residual is None else _channels_last(_as_large(residual.to(input.dtype), input))
        out, _ = torch.ops.detcore.group_norm_act(_channels_last(input), weight, bias, residual, num_groups, eps, relu)
        return out  # type: ignore[no-any-return]
    normal = F.group_norm(_accurately_summed(input), num_groups, weight, bias, eps)
    return added(normal.to(memory_format=torch.channels_last), residual, relu=relu)


def _accurately_summed(input: Tensor) -> Tensor:
    """NCHW on the CPU, where torch's kernel for channels_last takes the variance as the mean of squares less the square
    of the mean: in float32 that loses the digits of a map whose mean is far from 0."""
    return input.contiguous() if input.device.type == "cpu" else input


def _as_large(residual: Tensor, input: Tensor) -> Tensor:
    if residual.shape == input.shape:
        return residual
    with torch.autocast(input.device.type, enabled=False):  # which would make it float32
        return F.interpolate(residual, size=input.shape[-2:], mode="nearest")


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def group_norm_act_reference(
    input: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, groups: int, eps: float, relu: bool
) -> tuple[Tensor, Tensor]:
    """The result and (B, groups, 2): each group's mean and 1 / standard deviation."""
    wide = torch.promote_types(input.dtype, torch.float32)
    flat = input.to(wide).reshape(input.shape[0], groups, -1)
    mean, rstd = flat.mean(dim=-1), torch.rsqrt(flat.var(dim=-1, correction=0) + eps)
    residual = None if residual is None else residual.to(wide)
    out = added(F.group_norm(input.to(wide), groups, weight.to(wide), bias.to(wide), eps), residual, relu=relu)
    return _channels_last(out.to(input.dtype)), torch.stack((mean, rstd), dim=-1)


def group_norm_act_backward_reference(
    grad: Tensor,
    input: Tensor,
    output: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    stats: Tensor,
    groups: int,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, of bias and weight for each image (B, C, 2), and what came through the ReLU.

    The last is empty where there is no `output`; what came through then follows from the input.
    """
    wide = stats.dtype
    mean, rstd = (part[..., None] for part in stats.unbind(-1))
    flat = input.to(wide).reshape(input.shape[0], groups, -1)
    normal = ((flat - mean) * rstd).view(input.shape)
    scale, shift = weight.to(wide).view(-1, 1, 1), bias.to(wide).view(-1, 1, 1)
    through = grad.to(wide)
    if relu:
        through = torch.where((normal * scale + shift if output is None else output) > 0, through, 0.0)
    of_channels = torch.stack((through.sum(dim=(2, 3)), (through * normal).sum(dim=(2, 3))), dim=-1)
    weighted, normal = (part.reshape(flat.shape) for part in (through * scale, normal))
    slope = (weighted * normal).mean(dim=-1, keepdim=True)
    of_input = rstd * (weighted - weighted.mean(dim=-1, keepdim=True) - normal * slope)
    of_residual = input.new_empty(0) if output is None else _channels_last(through.to(input.dtype))
    return _channels_last(of_input.view(input.shape).to(input.dtype)), of_channels, of_residual


def _fake(
    input: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, groups: int, eps: float, relu: bool
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(input.dtype, torch.float32)
    return _channels_last(torch.empty_like(input)), input.new_empty((input.shape[0], groups, 2), dtype=wide)


def _fake_backward(
    grad: Tensor, input: Tensor, output: Tensor | None, weight: Tensor, bias: Tensor, stats: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    through = input.new_empty(0) if output is None else _channels_last(torch.empty_like(input))
    return _channels_last(torch.empty_like(input)), stats.new_empty((*input.shape[:2], 2)), through


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    input, weight, bias, residual, ctx.groups, _, ctx.relu = inputs
    ctx.has_residual = residual is not None
    ctx.set_materialize_grads(False)
    # Without a residual, what the ReLU let through follows from the input.
    ctx.save_for_backward(input, weight, bias, output[1], output[0] if ctx.has_residual and ctx.relu else None)


def _backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    input, weight, bias, stats, output = ctx.saved_tensors
    of_input, of_channels, through = torch.ops.detcore.group_norm_act_backward(
        _channels_last(grad), input, output, weight, bias, stats, ctx.groups, ctx.relu
    )
    of_bias, of_weight = of_channels.sum(dim=0).unbind(-1)
    of_residual = (grad if output is None else through) if ctx.has_residual else None
    return of_input, of_weight.to(weight.dtype), of_bias.to(bias.dtype), of_residual, None, None, None


native.define(
    "group_norm_act",
    "(Tensor input, Tensor weight, Tensor bias, Tensor? residual, int groups, float eps, bool relu) "
    "-> (Tensor, Tensor)",
    _fake,
    save=_save,
    backward=_backward,
)
native.define(
    "group_norm_act_backward",
    "(Tensor grad, Tensor input, Tensor? output, Tensor weight, Tensor bias, Tensor stats, int groups, bool relu) "
    "-> (Tensor, Tensor, Tensor)",
    _fake_backward,
)
torch.library.impl("detcore::group_norm_act", "cpu", group_norm_act_reference)
torch.library.impl("detcore::group_norm_act_backward", "cpu", group_norm_act_backward_reference)
