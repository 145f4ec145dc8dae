"""The multiscale vision transformer against its definition written out."""

import itertools
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from detcore.config.model import MViTBackbone
from detcore.models.backbones.mvit import MViT, PooledAttention, distances

SMALL = {
    "channels": 8,
    "num_heads": 2,
    "depth": 6,
    "last_blocks": [0, 2, 4, 5],
    "window_size": 8,
    "table_size": 64,
    "drop_path": 0.0,
}


def mvit(**settings: Any) -> MViT:
    """Small, with every parameter away from where it starts."""
    torch.manual_seed(0)
    model = MViT(**MViTBackbone(**{**SMALL, **settings}).model_dump(exclude={"type", "weights"}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def pooled_attention(*, query_stride: int, key_stride: int, window_size: int) -> PooledAttention:
    torch.manual_seed(0)
    attention = PooledAttention(
        in_channels=6,
        out_channels=8,
        num_heads=2,
        query_stride=query_stride,
        key_stride=key_stride,
        window_size=window_size,
        table_size=8,
    )
    with torch.no_grad():
        for parameter in attention.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return attention.double()


def attended(attention: PooledAttention, x: Tensor, strides: tuple[int, int], window: int) -> Tensor:
    """(h, w, C) -> (h', w', C'): arXiv:2112.01526, equations 1 to 5, one head and one query at a time."""
    size = 4
    pools = [(attention.pool_q, attention.norm_q), (attention.pool_k, attention.norm_k)]
    pools.append((attention.pool_v, attention.norm_v))
    heads = []
    for head in range(2):
        q, k, v = (
            norm(F.conv2d(part[..., size * head : size * (head + 1)].permute(2, 0, 1), *given(pool)).permute(1, 2, 0))
            for part, (pool, norm) in zip(attention.qkv(x).split(8, dim=-1), pools, strict=True)
        )
        out = torch.zeros_like(q)
        for place in itertools.product(range(q.shape[0]), range(q.shape[1])):
            inside = [
                other
                for other in itertools.product(range(k.shape[0]), range(k.shape[1]))
                if all(a * strides[0] // window == b * strides[1] // window for a, b in zip(place, other, strict=True))
            ]
            logits = []
            for other in inside:
                position = sum(
                    table[row(a * strides[0] % window, b * strides[1] % window, strides, window)]
                    for table, a, b in zip((attention.rel_pos_h, attention.rel_pos_w), place, other, strict=True)
                )
                logits.append(q[place] @ k[other] / math.sqrt(size) + q[place] @ position)
            weights = torch.stack(logits).softmax(0)
            out[place] = sum(w * v[other] for w, other in zip(weights, inside, strict=True)) + q[place]
        heads.append(out)
    return attention.proj(torch.cat(heads, dim=-1))


def given(pool: torch.nn.Conv2d) -> tuple[Any, ...]:
    return pool.weight, None, pool.stride, pool.padding, pool.dilation, pool.groups


def row(query: int, key: int, strides: tuple[int, int], side: int) -> int:
    """Of the table for a distance between places of the input; the last key is at its end."""
    finer = min(strides)
    last_key = side - strides[1]
    return (query - key + last_key) // finer


@pytest.mark.parametrize("strides", [(1, 2), (2, 1), (2, 2), (1, 4)])
@pytest.mark.parametrize(("window", "size"), [(0, 8), (8, 16)])
def test_pooled_attention_by_its_definition(strides: tuple[int, int], window: int, size: int) -> None:
    attention = pooled_attention(query_stride=strides[0], key_stride=strides[1], window_size=window)
    x = torch.randn(2, size, size, 6, dtype=torch.float64)
    out = attention(x)
    for image, found in zip(x, out, strict=True):
        torch.testing.assert_close(found, attended(attention, image, strides, window or size))


def test_tables_are_stretched_to_the_distances_of_the_finer_side() -> None:
    table = torch.arange(7.0)[:, None]  # of 4 places
    assert distances(table, 4, 4)[..., 0].tolist() == [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]
    assert distances(table, 4, 2)[..., 0].tolist() == [[2, 0], [3, 1], [4, 2], [5, 3]]
    assert distances(table, 2, 4)[..., 0].tolist() == [[3, 2, 1, 0], [5, 4, 3, 2]]
    assert distances(table, 7, 7).shape == (7, 7, 1)


def test_features_of_images_of_any_shape() -> None:
    model = mvit(checkpointing=True)
    for height, width in ((64, 96), (128, 32), (160, 224)):
        features = model(torch.randn(1, 3, height, width))
        assert [tuple(level.shape) for level in features] == [
            (1, 8 << stage, height >> (2 + stage), width >> (2 + stage)) for stage in range(4)
        ]
    assert model.channels == (8, 16, 32, 64) and model.size_divisor == 32
    assert mvit(size_divisor=48).size_divisor == 96


def test_checkpointing_changes_nothing() -> None:
    images = torch.randn(1, 3, 64, 64)
    gradients = []
    for checkpointing in (False, True):
        model = mvit(checkpointing=checkpointing).train()
        sum(level.sum() for level in model(images)).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_heads": 3}, "num_heads 3 does not divide channels 8"),
        ({"last_blocks": [0, 2, 4, 4]}, r"last_blocks \[0, 2, 4, 4\].* depth - 1 = 5"),
        ({"depth": 7}, "depth - 1 = 6"),
        ({"window_size": 12}, "window_size 12 .* multiples of 8"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        MViTBackbone(**{**SMALL, **settings})
