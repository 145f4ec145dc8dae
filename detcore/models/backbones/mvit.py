"""The multiscale vision transformer (MViTv2, arXiv:2112.01526) as a detector's backbone."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detcore.models.backbones.backbone import Backbone
from detcore.models.backbones.vit import EPS, MLP, in_windows, out_of_windows, resampled, small_normal
from detcore.models.graph_sizes import largest
from detcore.models.initialization import start
from detcore.models.stochastic_depth import DropPath

_PATCH_STRIDE = 4


class PooledAttention(nn.Module):
    """Multi-head attention whose queries, keys and values are pooled first, each by a depthwise 3x3 convolution.

    The heads share the convolutions. The pooled queries are added to the result (section 4.1, residual pooling), and
    position enters as in `vit.Attention`.

    Args:
        in_channels, out_channels, num_heads: heads divide the latter.
        query_stride, key_stride: of the pooling; values are pooled as keys.
        window_size: attention stays within windows of so many places of the input squared; 0 is over the whole map.
        table_size: places along a side of the square that relative positions have a row for every distance of.
    """

    undecayed = ("rel_pos_h", "rel_pos_w")

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        num_heads: int,
        query_stride: int,
        key_stride: int,
        window_size: int,
        table_size: int,
    ) -> None:
        super().__init__()
        self.num_heads, self.window_size = num_heads, window_size
        self.query_stride, self.key_stride = query_stride, key_stride
        width = out_channels // num_heads
        self.qkv = nn.Linear(in_channels, 3 * out_channels)
        self.proj = nn.Linear(out_channels, out_channels)
        start((self.qkv, self.proj), small_normal)
        self.pool_q, self.norm_q = _pool(width, query_stride), nn.LayerNorm(width, eps=EPS)
        self.pool_k, self.norm_k = _pool(width, key_stride), nn.LayerNorm(width, eps=EPS)
        self.pool_v, self.norm_v = _pool(width, key_stride), nn.LayerNorm(width, eps=EPS)
        rows = 2 * max(table_size // query_stride, table_size // key_stride) - 1
        self.rel_pos_h = nn.Parameter(torch.zeros(rows, width))
        self.rel_pos_w = nn.Parameter(torch.zeros(rows, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h / s, w / s, out_channels), s the queries' stride."""
        batch, height, width, _ = x.shape
        heads = self.qkv(x).view(batch, height, width, 3, self.num_heads, -1).permute(3, 0, 4, 1, 2, 5)
        q, k, v = heads.flatten(1, 2).unbind(0)
        queries = _pooled(q, self.pool_q, self.norm_q)
        k, v = _pooled(k, self.pool_k, self.norm_k), _pooled(v, self.pool_v, self.norm_v)
        if self.window_size:
            of_queries, of_keys = self.window_size // self.query_stride, self.window_size // self.key_stride
            out = self._attend(in_windows(queries, of_queries), in_windows(k, of_keys), in_windows(v, of_keys))
            out = out_of_windows(out, queries.shape[1], queries.shape[2])
        else:
            out = self._attend(queries, k, v)
        out = (out + queries).unflatten(0, (batch, self.num_heads))
        return self.proj(out.permute(0, 2, 3, 1, 4).flatten(3))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N, h, w, d), (N, h', w', d) twice -> (N, h, w, d)."""
        of_rows = torch.einsum("nhwc,hkc->nhwk", q, distances(self.rel_pos_h, q.shape[1], k.shape[1]).to(q.dtype))
        of_columns = torch.einsum("nhwc,wkc->nhwk", q, distances(self.rel_pos_w, q.shape[2], k.shape[2]).to(q.dtype))
        bias = (of_rows[..., :, None] + of_columns[..., None, :]).flatten(3).flatten(1, 2)
        # One head: they are among the N.
        queries, keys, values = (part.flatten(1, 2)[:, None] for part in (q, k, v))
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias[:, None])[:, 0].view_as(q)


def _pool(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, kernel_size=3, stride=stride, padding=1, groups=channels, bias=False)


def _pooled(x: Tensor, pool: nn.Module, norm: nn.Module | None = None) -> Tensor:
    """(N, h, w, d) -> (N, h', w', d)."""
    x = pool(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return x if norm is None else norm(x)


def distances(table: Tensor, queries: int, keys: int) -> Tensor:
    """The row of a table of distances for every query and key: (L, d) -> (queries, keys, d).

    Places of the coarser of the two are as far apart as those of the finer that they pool; the table is stretched to
    all distances between the finer's.
    """
    table = resampled(table, 2 * largest(queries, keys) - 1, mode="linear")
    per_query, per_key = max(keys / queries, 1.0), max(queries / keys, 1.0)
    of_queries = torch.arange(queries, device=table.device)[:, None] * per_query
    of_keys = torch.arange(keys, device=table.device) * per_key
    return table[(of_queries - of_keys + (keys - 1) * per_key).long()]


class MViTBlock(nn.Module):
    """Pooled attention and an MLP, each after a layer norm and beside a shortcut, which is pooled and widened too.

    Args:
        in_channels to table_size: see `PooledAttention`.
        mlp_ratio: an MLP is so many times as wide inside.
        drop_path: stochastic depth.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        num_heads: int,
        mlp_ratio: float,
        query_stride: int,
        key_stride: int,
        window_size: int,
        table_size: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(in_channels, eps=EPS)
        self.attn = PooledAttention(
            in_channels=in_channels,
            out_channels=out_channels,
            num_heads=num_heads,
            query_stride=query_stride,
            key_stride=key_stride,
            window_size=window_size,
            table_size=table_size,
        )
        self.norm2 = nn.LayerNorm(out_channels, eps=EPS)
        self.mlp = MLP(channels=out_channels, inner_channels=int(out_channels * mlp_ratio))
        self.drop_path1, self.drop_path2 = DropPath(rate=drop_path), DropPath(rate=drop_path)
        self.proj: nn.Linear | None = None
        if in_channels != out_channels:
            self.proj = nn.Linear(in_channels, out_channels)
            start((self.proj,), small_normal)
        self.pool: nn.MaxPool2d | None = None
        if query_stride > 1:
            self.pool = nn.MaxPool2d(query_stride + 1, query_stride, padding=(query_stride + 1) // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, C) -> (B, h / s, w / s, out_channels)."""
        normal = self.norm1(x)
        if self.proj is not None:
            x = self.proj(normal)
        if self.pool is not None:
            x = _pooled(x, self.pool)
        x = x + self.drop_path1(self.attn(normal))
        return x + self.drop_path2(self.mlp(self.norm2(x)))


class MViT(Backbone):
    """Images (B, 3, H, W) -> features at strides 4, 8, 16 and 32, each after a layer norm.

    Args:
        channels, num_heads: of the first stage; each next one doubles both.
        depth: blocks of all stages.
        last_blocks: the last block of each of the four stages, counted from 0.
        mlp_ratio: an MLP is so many times as wide inside.
        key_stride: of the keys' pooling in the first stage; each next one halves it, and the last blocks of the second
            and third stage double it.
        window_size: places of a window's side in the first stage, halved by each next one. The last blocks of all
            stages but the first attend to the whole map.
        table_size: pixels of the square images that relative positions have a row for every distance of.
        size_divisor: heights and widths of images are multiples of it, and of 32.
        drop_path: stochastic depth of the last block; it grows linearly from 0.
        checkpointing: computes blocks again in the backward pass instead of keeping what is inside them.
        image_mean, image_std: what images are normalised with; RGB, 0..255.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        depth: int,
        last_blocks: tuple[int, int, int, int],
        mlp_ratio: float,
        key_stride: int,
        window_size: int,
        table_size: int,
        size_divisor: int | None,
        drop_path: float,
        checkpointing: bool,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.channels = tuple(channels << stage for stage in range(4))
        self.strides = (4, 8, 16, 32)
        self.size_divisor = math.lcm(32, size_divisor or 1)
        self.image_mean, self.image_std, self.checkpointing = image_mean, image_std, checkpointing
        self.last_blocks = last_blocks
        self.patch_embed = nn.Conv2d(3, channels, kernel_size=7, stride=_PATCH_STRIDE, padding=3)
        self.blocks = nn.ModuleList()
        before = channels
        for stage, (end, last) in enumerate(pairwise((-1, *last_blocks))):
            for index in range(end + 1, last + 1):
                first = index == end + 1 and stage > 0
                side = stage - 1 if first else stage  # of its input, which the first block of a stage halves
                stride = max(key_stride >> stage, 1) * (2 if index == last and stage in (1, 2) else 1)
                self.blocks.append(
                    MViTBlock(
                        in_channels=before,
                        out_channels=channels << stage,
                        num_heads=num_heads << stage,
                        mlp_ratio=mlp_ratio,
                        query_stride=2 if first else 1,
                        key_stride=stride,
                        window_size=0 if index == last and stage > 0 else window_size >> side,
                        table_size=(table_size // _PATCH_STRIDE) >> side,
                        drop_path=drop_path * index / max(depth - 1, 1),
                    )
                )
                before = channels << stage
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=EPS) for width in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images).permute(0, 2, 3, 1)
        features: list[Tensor] = []
        for index, block in enumerate(self.blocks):
            if self.checkpointing and self.training:
                # No random numbers are drawn inside; asking for the generator's state would stop a CUDA graph.
                x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x)
            if index in self.last_blocks:
                features.append(self.norms[len(features)](x).permute(0, 3, 1, 2))
        return features
