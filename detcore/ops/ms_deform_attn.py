"""Multi-scale deformable attention: every query looks at a few places of every pyramid level."""

from collections.abc import Sequence

import torch
from torch import Tensor


def ms_deform_attn(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]] | Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """The attention of Deformable DETR (Zhu et al. 2021, equation 3), without its projections.

    Args:
        value: (B, S, heads, channels) float, the levels' positions row by row, one level after the other;
            bf16 and fp16 are computed in fp32.
        spatial_shapes: (height, width) of each of the L levels; a tensor (L, 2) is read by the host.
        sampling_locations: (B, Q, heads, L, P, 2), (x, y) in 0..1 between the level's outer edges. Outside of them, and
            at NaN, the value is 0.
        attention_weights: (B, Q, heads, L, P).

    Returns:
        (B, Q, heads * channels) in the dtype of the value; differentiable in the three tensors.

    Raises:
        ValueError: if the levels do not add up to S positions.
    """
    shapes = spatial_shapes.tolist() if isinstance(spatial_shapes, Tensor) else spatial_shapes
    batch, positions, heads, channels = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    sizes = [height * width for height, width in shapes]
    if sum(sizes) != positions:
        raise ValueError(f"ms_deform_attn: levels of {list(shapes)} have {sum(sizes)} positions, the value {positions}")
    dtype = value.dtype
    accurate = torch.promote_types(dtype, torch.float32)
    # Two level sizes outside a place is as far as any; grid_sample's weights are undefined at infinity.
    locations = sampling_locations.to(accurate).nan_to_num(nan=-1.0).clamp(-1, 2) * 2 - 1
    weights = attention_weights.to(accurate)
    out = value.new_zeros((batch * heads, channels, queries), dtype=accurate)
    first = 0
    for level, ((height, width), size) in enumerate(zip(shapes, sizes, strict=True)):
        planes = value[:, first : first + size].to(accurate).permute(0, 2, 3, 1)
        planes = planes.reshape(batch * heads, channels, height, width)
        grid = locations[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        share = weights[:, :, :, level].transpose(1, 2).reshape(batch * heads, 1, queries, points)
        out = out + (torch.nn.functional.grid_sample(planes, grid, align_corners=False) * share).sum(-1)
        first += size
    return out.reshape(batch, heads * channels, queries).transpose(1, 2).to(dtype)
