"""Expected values: bilinear interpolation written out for every head, query, level and point."""

import math

import pytest
import torch
from torch import Tensor

from detcore.ops import ms_deform_attn

SHAPES = [(4, 5), (2, 3), (1, 1)]


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    value = torch.rand((2, 27, 2, 3), generator=generator, dtype=dtype)
    locations = torch.rand((2, 4, 2, 3, 2, 2), generator=generator, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand((2, 4, 2, 3, 2), generator=generator, dtype=dtype)
    return value, locations, weights


def by_hand(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    batch, queries, heads, _, points = weights.shape
    out = torch.zeros(batch, queries, heads, value.shape[3], dtype=value.dtype)
    for b, q, h in torch.cartesian_prod(*(torch.arange(n) for n in (batch, queries, heads))).tolist():
        first = 0
        for level, (height, width) in enumerate(SHAPES):
            for p in range(points):
                x, y = locations[b, q, h, level, p].tolist()
                x, y = x * width - 0.5, y * height - 0.5
                for i in (math.floor(y), math.floor(y) + 1):
                    for j in (math.floor(x), math.floor(x) + 1):
                        if 0 <= i < height and 0 <= j < width:
                            share = (1 - abs(y - i)) * (1 - abs(x - j)) * weights[b, q, h, level, p]
                            out[b, q, h] += share * value[b, first + i * width + j, h]
            first += height * width
    return out.flatten(2)


def test_equals_the_formula() -> None:
    tensors = inputs()
    want = by_hand(*tensors)
    value, locations, weights = tensors
    torch.testing.assert_close(ms_deform_attn(value, SHAPES, locations, weights), want)
    torch.testing.assert_close(ms_deform_attn(value, torch.tensor(SHAPES), locations, weights), want)
    half = ms_deform_attn(value.bfloat16(), SHAPES, locations, weights.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), want, rtol=2e-2, atol=2e-2)


def test_gradients() -> None:
    tensors = [t.requires_grad_() for t in inputs(torch.float64)]
    assert torch.autograd.gradcheck(lambda v, x, w: ms_deform_attn(v, SHAPES, x, w), tensors)


@pytest.mark.parametrize("where", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_undefined_locations_read_zero(where: float) -> None:
    value, locations, weights = inputs()
    locations[:, 1] = where
    out = ms_deform_attn(value, SHAPES, locations, weights)
    assert not out[:, 1].any() and out[:, 0].all()


def test_empty_inputs_and_errors() -> None:
    value, locations, weights = inputs()
    assert ms_deform_attn(value, SHAPES, locations[:, :0], weights[:, :0]).shape == (2, 0, 6)
    assert ms_deform_attn(value[:0], SHAPES, locations[:0], weights[:0]).shape == (0, 4, 6)
    with pytest.raises(ValueError, match="positions"):
        ms_deform_attn(value[:, 1:], SHAPES, locations, weights)
