"""Multi-scale deformable attention: every query looks at a few places of every pyramid level."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from detcore.ops import native
from detcore.ops.shapes import expect

_MOST_LEVELS = 16


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]] | Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """The attention of Deformable DETR (Zhu et al. 2021, equation 3), without its projections.

    Under autocast the value and the weights are cast to its dtype; the locations stay as they are. With
    torch.use_deterministic_algorithms(True) the value's gradient on CUDA is summed in fixed point, with about 40 bits
    below the largest that it may be; a number in it that is not finite then makes it NaN everywhere.

    Args:
        value: (B, S, heads, channels) float, the levels' positions row by row, one level after the other;
            bf16 and fp16 are computed in fp32.
        spatial_shapes: (height, width) of each of the L levels, 16 at most; a tensor (L, 2) is read by the host.
        sampling_locations: (B, Q, heads, L, P, 2), (x, y) in 0..1 between the level's outer edges. Outside of them, and
            at NaN, the value is 0.
        attention_weights: (B, Q, heads, L, P).

    Returns:
        (B, Q, heads * channels) in the dtype of the value; differentiable in the three tensors.

    Raises:
        ValueError: if the levels do not add up to S positions, or a shape does not fit the others.
    """
    shapes = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
    heights, widths = [height for height, _ in shapes], [width for _, width in shapes]
    _check(value, heights, widths, sampling_locations, attention_weights)
    if native.serves(value.device.type):
        out: Tensor = torch.ops.detcore.ms_deform_attn(value, sampling_locations, attention_weights, heights, widths)
        return out
    return ms_deform_attn_reference(value, shapes, sampling_locations, attention_weights)


def ms_deform_attn_reference(
    value: Tensor, shapes: Sequence[tuple[int, int]], sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """`ms_deform_attn` by torch's grid_sample, level by level."""
    batch, _, heads, channels = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    dtype = value.dtype
    accurate = torch.promote_types(dtype, torch.float32)
    # Two level sizes outside a place is as far as any; grid_sample's weights are undefined at infinity.
    locations = sampling_locations.to(accurate).nan_to_num(nan=-1.0).clamp(-1, 2) * 2 - 1
    weights = attention_weights.to(accurate)
    out = value.new_zeros((batch * heads, channels, queries), dtype=accurate)
    first = 0
    for level, (height, width) in enumerate(shapes):
        size = height * width
        planes = value[:, first : first + size].to(accurate).permute(0, 2, 3, 1)
        planes = planes.reshape(batch * heads, channels, height, width)
        grid = locations[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        share = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        out = out + (torch.nn.functional.grid_sample(planes, grid, align_corners=False) * share).sum(-1)
        first += size
    return out.reshape(batch, heads * channels, queries).transpose(1, 2).to(dtype)


def _check(value: Tensor, heights: list[int], widths: list[int], locations: Tensor, weights: Tensor) -> None:
    expect(
        "ms_deform_attn",
        value=(value, "B S H C"),
        sampling_locations=(locations, "B Q H L P 2"),
        attention_weights=(weights, "B Q H L P"),
    )
    batch, positions, heads, _ = value.shape
    sizes = [height * width for height, width in zip(heights, widths, strict=True)]
    if sum(sizes) != positions or min(heights + widths, default=0) < 0:
        shapes = list(zip(heights, widths, strict=True))
        raise ValueError(f"ms_deform_attn: levels of {shapes} have {sum(sizes)} positions, the value {positions}")
    if len(sizes) > _MOST_LEVELS:
        raise ValueError(f"ms_deform_attn: {len(sizes)} levels; must be {_MOST_LEVELS} at most")
    expected = [batch, weights.shape[1], heads, len(sizes), weights.shape[-1]]
    if list(weights.shape) != expected or list(locations.shape) != [*expected, 2]:
        raise ValueError(
            f"ms_deform_attn: weights are {list(weights.shape)} and locations {list(locations.shape)};"
            f" must be {expected} and {[*expected, 2]}"
        )


def _fake(value: Tensor, locations: Tensor, *_: Any) -> Tensor:
    return value.new_empty((value.shape[0], locations.shape[1], value.shape[2] * value.shape[3]))


def _fake_backward(
    grad: Tensor, value: Tensor, locations: Tensor, weights: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return value.new_empty(value.shape), locations.new_empty(locations.shape), weights.new_empty(weights.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.heights, ctx.widths = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    value, locations, weights = ctx.saved_tensors
    bound = None
    if torch.are_deterministic_algorithms_enabled() and value.is_cuda and grad.numel() and weights.numel():
        bound = _bound_of_sums(grad, weights)
    grads = torch.ops.detcore.ms_deform_attn_backward(grad, value, locations, weights, ctx.heights, ctx.widths, bound)
    return (*grads, None, None)


def _bound_of_sums(grad: Tensor, weights: Tensor) -> Tensor:
    """A number on the device that no sum in the value's gradient exceeds: () float64."""
    largest: Tensor = torch.linalg.vector_norm(grad, torch.inf, dtype=torch.float64)
    largest *= torch.linalg.vector_norm(weights, torch.inf, dtype=torch.float64)
    # A sample's four weights add up to 1; twice that for roundings.
    largest *= 2 * weights.shape[1] * weights.shape[4]
    return largest


def _under_autocast(dtype: torch.dtype, value: Tensor, locations: Tensor, weights: Tensor, *rest: Any) -> Tensor:
    if value.dtype != torch.float64:
        value, weights = value.to(dtype), weights.to(dtype)
    out: Tensor = torch.ops.detcore.ms_deform_attn(value, locations, weights, *rest)
    return out


native.define(
    "ms_deform_attn",
    "(Tensor value, Tensor sampling_locations, Tensor attention_weights, SymInt[] heights, SymInt[] widths) -> Tensor",
    _fake,
    save=_save,
    backward=_backward,
    autocast=_under_autocast,
)
native.define(
    "ms_deform_attn_backward",
    "(Tensor grad, Tensor value, Tensor sampling_locations, Tensor attention_weights, SymInt[] heights, "
    "SymInt[] widths, Tensor? bound) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
)
