"""The native deformable convolution: samples the columns of a matrix, and multiplies it by the weights."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from detcore.ops import native

_COLUMN_BYTES = {"cuda": 2**28, "cpu": 2**23}
"""Largest buffer of sampled columns: on CUDA a bound of the memory, on the CPU what its caches hold."""


def convolve(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, *pairs: list[int]
) -> Tensor:
    """The native operator; pairs: stride, padding and dilation of y and x."""
    out: Tensor = torch.ops.detcore.deform_conv2d(input, offset, weight, bias, mask, *pairs)
    return out


class _Call:
    """The operands of one call, as the kernels and the matrix products take them.

    A matrix row is an output position, of all images one after the other; a column is a tap and a channel of a group.
    """

    def __init__(self, input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, *pairs: list[int]) -> None:
        accurate = torch.promote_types(input.dtype, torch.float32)
        self.dtype = accurate if input.device.type == "cpu" else input.dtype
        self.input = input.contiguous(memory_format=torch.channels_last)
        self.offset = offset.to(accurate).contiguous()
        self.mask = None if mask is None else mask.to(accurate).contiguous()
        self.groups = input.shape[1] // max(weight.shape[1], 1)
        out_channels, depth, height, width = weight.shape
        group = (self.groups, out_channels // max(self.groups, 1), height * width * depth)
        self.weight = weight.to(self.dtype).permute(0, 2, 3, 1).reshape(group)
        self.taps = height * width
        self.geometry = ([height, width], *pairs, self.groups)
        self.positions = offset.shape[0] * offset.shape[2] * offset.shape[3]

    def parts(self) -> Iterator[tuple[int, int]]:
        """First position and number of positions of each part whose columns fit the buffer."""
        row_bytes = self.weight.shape[2] * self.groups * self.weight.element_size()
        most = max(_COLUMN_BYTES[self.input.device.type] // max(row_bytes, 1), 1)
        count = -(-self.positions // max(-(-self.positions // most), 1))
        for first in range(0, self.positions, max(count, 1)):
            yield first, min(count, self.positions - first)

    def rows(self, image: Tensor) -> Tensor:
        """An output or its gradient (B, out C, out H, out W), channels last, as (groups, positions, out C / groups)."""
        flat = image.permute(0, 2, 3, 1).view(self.positions, self.groups, self.weight.shape[1])
        return flat.transpose(0, 1)

    def columns(self, first: int, count: int) -> Tensor:
        """(groups, count, kh kw C / groups)."""
        columns: Tensor = torch.ops.detcore.deform_columns(
            self.input, self.offset, self.mask, *self.geometry, first, count
        )
        return columns


def _multiply(left: Tensor, right: Tensor, out: Tensor, bias: Tensor | None = None) -> None:
    """out = left @ right + bias, for each group."""
    if len(left) == 1 and bias is not None:
        torch.addmm(bias, left[0], right[0], out=out[0])
    elif len(left) == 1:
        torch.mm(left[0], right[0], out=out[0])
    else:
        torch.bmm(left, right, out=out)
        if bias is not None:
            out += bias.view(len(out), 1, -1)


def _add_product(sums: Tensor, left: Tensor, right: Tensor) -> None:
    """sums += left @ right, for each group."""
    if len(sums) == 1:  # plain products have more ways to share out their long sums
        sums, left, right = sums[0], left[0], right[0]
    if sums.dtype != right.dtype:
        sums += left @ right
    elif sums.dim() == 2:
        sums.addmm_(left, right)
    else:
        sums.baddbmm_(left, right)


def _empty(input: Tensor, offset: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    shape = (input.shape[0], weight.shape[0], offset.shape[2], offset.shape[3])
    return torch.empty(shape, dtype=dtype, device=input.device, memory_format=torch.channels_last)


@torch.no_grad()
def _convolve(
    input: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, *pairs: list[int]
) -> Tensor:
    call = _Call(input, offset, weight, mask, *pairs)
    out = _empty(input, offset, weight, call.dtype)
    rows, bias = call.rows(out), None if bias is None else bias.to(call.dtype)
    for first, count in call.parts():
        _multiply(call.columns(first, count), call.weight.transpose(1, 2), rows[:, first : first + count], bias)
    return out.to(input.dtype)


@torch.no_grad()
def _differentiate(
    grad: Tensor,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    needs: list[bool],
    deterministic: bool,
) -> list[Tensor]:
    call = _Call(input, offset, weight, mask, stride, padding, dilation)
    rows = call.rows(grad.to(call.dtype).contiguous(memory_format=torch.channels_last))
    needs_columns = needs[0] or needs[1] or needs[3]
    bound = _bound_of_sums(call, rows) if needs[0] and deterministic and input.is_cuda else None
    batch, channels, height, width = input.shape
    sums_dtype = call.offset.dtype if bound is None else torch.int64
    sums = input.new_zeros((batch, height, width, channels), dtype=sums_dtype) if needs[0] else None
    grad_offset = torch.zeros_like(call.offset) if needs[1] else None
    grad_weight = torch.zeros_like(call.weight, dtype=call.offset.dtype) if needs[2] else None
    grad_mask = torch.zeros_like(call.mask) if needs[3] and call.mask is not None else None
    for first, count in call.parts():
        own = rows[:, first : first + count]
        if needs_columns:
            columns = own.new_empty((call.groups, count, call.weight.shape[2]))
            _multiply(own, call.weight, columns)
            # Takes the columns' gradients, leaves the columns.
            torch.ops.detcore.deform_columns_backward(
                *(columns, call.input, call.offset, call.mask, sums, grad_offset, grad_mask, bound),
                *(*call.geometry, first, count),
            )
        else:
            columns = call.columns(first, count)
        if grad_weight is not None:
            _add_product(grad_weight, own.transpose(1, 2), columns)
    grads = [] if sums is None else [_values(sums, bound, input.dtype).permute(0, 3, 1, 2)]
    if grad_offset is not None:
        grads.append(grad_offset.to(offset.dtype))
    if grad_weight is not None:
        channels_first = grad_weight.view(len(weight), *weight.shape[2:], weight.shape[1]).permute(0, 3, 1, 2)
        grads.append(torch.empty_like(weight).copy_(channels_first))
    if grad_mask is not None and mask is not None:
        grads.append(grad_mask.to(mask.dtype))
    return grads


def _bound_of_sums(call: _Call, rows: Tensor) -> Tensor:
    """A number on the device that no sum in the input's gradient exceeds: () float64."""
    if rows.numel() == 0 or call.weight.numel() == 0:
        return rows.new_zeros((), dtype=torch.float64)
    largest: Tensor = torch.linalg.vector_norm(rows, torch.inf, dtype=torch.float64)
    largest *= call.weight.abs().sum(1, dtype=torch.float64).amax()
    if call.mask is not None:
        largest *= torch.linalg.vector_norm(call.mask, torch.inf, dtype=torch.float64)
    # A tap's weights add up to 1 at most. Twice that, since the columns' gradients are rounded.
    _, _, height, width = call.offset.shape
    largest *= 2 * call.taps * height * width
    return largest


def _values(sums: Tensor, bound: Tensor | None, dtype: torch.dtype) -> Tensor:
    if bound is None:
        return sums.to(dtype)
    # The unit that csrc/common/scatter.h takes: sums up to the bound have 62 bits.
    unit = torch.ldexp(torch.ones_like(bound), (torch.frexp(bound).exponent - 62).clamp(min=-1000))
    return (sums.double() * torch.where(bound.isfinite(), unit, torch.nan)).to(dtype)


def _fake(input: Tensor, offset: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return _empty(input, offset, weight, input.dtype)


def _fake_backward(
    grad: Tensor, input: Tensor, offset: Tensor, weight: Tensor, mask: Tensor | None, *rest: Any
) -> list[Tensor]:
    grads = [torch.empty_like(input, memory_format=torch.channels_last)]
    grads.append(torch.empty_like(offset, memory_format=torch.contiguous_format))
    grads.append(torch.empty_like(weight))
    grads.append(offset.new_empty(()) if mask is None else mask.new_empty(mask.shape))
    return [own for own, needed in zip(grads, rest[-2], strict=True) if needed]


def _fake_columns(input: Tensor, offset: Tensor, mask: Tensor | None, kernel: list[int], *rest: Any) -> Tensor:
    groups, _, count = rest[-3:]
    dtype = torch.promote_types(input.dtype, torch.float32) if input.device.type == "cpu" else input.dtype
    return input.new_empty((groups, count, kernel[0] * kernel[1] * (input.shape[1] // groups)), dtype=dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, offset, weight, bias, mask, *ctx.pairs = inputs
    ctx.save_for_backward(input, offset, weight, mask)
    ctx.bias_dtype = None if bias is None else bias.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    needs = [ctx.needs_input_grad[i] for i in (0, 1, 2, 4)]
    own: list[Tensor] = []
    if any(needs):
        own = torch.ops.detcore.deform_conv2d_backward(
            grad, *ctx.saved_tensors, *ctx.pairs, needs, torch.are_deterministic_algorithms_enabled()
        )
    grads = iter(own)
    of_input, of_offset, of_weight, of_mask = (next(grads) if needed else None for needed in needs)
    of_bias = grad.sum((0, 2, 3)).to(ctx.bias_dtype) if ctx.needs_input_grad[3] else None
    return of_input, of_offset, of_weight, of_bias, of_mask, None, None, None


def _under_autocast(
    dtype: torch.dtype,
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    *pairs: Any,
) -> Tensor:
    def cast(tensor: Tensor | None) -> Tensor | None:
        return tensor if tensor is None or tensor.dtype == torch.float64 else tensor.to(dtype)

    out: Tensor = torch.ops.detcore.deform_conv2d(cast(input), offset, cast(weight), cast(bias), cast(mask), *pairs)
    return out


native.define(
    "deform_conv2d",
    "(Tensor input, Tensor offset, Tensor weight, Tensor? bias, Tensor? mask, int[] stride, int[] padding, "
    "int[] dilation) -> Tensor",
    _fake,
    save=_save,
    backward=_backward,
    autocast=_under_autocast,
)
native.define(
    "deform_conv2d_backward",
    "(Tensor grad, Tensor input, Tensor offset, Tensor weight, Tensor? mask, int[] stride, int[] padding, "
    "int[] dilation, bool[] needs, bool deterministic) -> Tensor[]",
    _fake_backward,
    # Its matrix products are in the dtype of the forward pass, whatever autocast would make of them.
    autocast=lambda _, *arguments: torch.ops.detcore.deform_conv2d_backward(*arguments),
)
_GEOMETRY = "int[] kernel, int[] stride, int[] padding, int[] dilation, int groups, int first, int count"
native.define("deform_columns", f"(Tensor input, Tensor offset, Tensor? mask, {_GEOMETRY}) -> Tensor", _fake_columns)
native.define(
    "deform_columns_backward",
    "(Tensor(a!) columns, Tensor input, Tensor offset, Tensor? mask, Tensor(b!)? grad_input, Tensor(c!)? grad_offset, "
    f"Tensor(d!)? grad_mask, Tensor(e!)? bound, {_GEOMETRY}) -> ()",
    lambda *_: None,
)
torch.library.impl("detcore::deform_conv2d", ("cpu", "cuda"), _convolve)
torch.library.impl("detcore::deform_conv2d_backward", ("cpu", "cuda"), _differentiate)
