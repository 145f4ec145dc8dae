"""The plain vision transformer (arXiv:2010.11929) as a detector's backbone: ViTDet, arXiv:2203.16527."""

import math
import re
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from detcore.models.backbones.backbone import Backbone
from detcore.models.graph_sizes import largest
from detcore.models.initialization import start
from detcore.models.norm import ConvNorm
from detcore.models.stochastic_depth import DropPath

EPS = 1e-6
"""Of the layer norms, as those of published weights."""


def small_normal(weight: Tensor) -> object:
    """As published ViTs begin: where theirs is cut off, at 2, are a hundred deviations."""
    return nn.init.normal_(weight, std=0.02)


def resampled(table: Tensor, size: int, *, mode: str) -> Tensor:
    """(n, ...) -> (size, ...), interpolated along the first dimension: 'linear' or 'bicubic', as F.interpolate.

    By a matrix: its gradient is a matrix product, which is deterministic and which autocast does not round.
    """
    length = len(table)
    if not isinstance(size, torch.SymInt) and length == size:  # a graph of any size asks nothing of it
        return table
    with torch.no_grad():
        unit = torch.eye(length, dtype=table.dtype, device=table.device)[None, ..., None]
        target = (size, 1)
        mode = {"linear": "bilinear"}.get(mode, mode)
        weights = F.interpolate(unit, size=target, mode=mode, align_corners=False)[0, ..., 0]  # (n, size)
    # The meta device knows no autocast.
    with nullcontext() if table.is_meta else torch.autocast(table.device.type, enabled=False):
        return torch.tensordot(weights, table, dims=([0], [0]))


class Attention(nn.Module):
    """Multi-head attention over a map, with the decomposed relative positions of MViTv2 (arXiv:2112.01526, eq. 4).

    Position enters as q_i . (R_h[row_i - row_j] + R_w[column_i - column_j]), beside q_i . k_j / sqrt(d).

    Args:
        channels, num_heads: heads divide the channels.
        table_size: places along a side for which relative positions have a row for every distance; None has none.
    """

    def __init__(self, *, channels: int, num_heads: int, table_size: int | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        start((self.qkv, self.proj), small_normal)
        self.rel_pos_h: nn.Parameter | None = None
        self.rel_pos_w: nn.Parameter | None = None
        if table_size is not None:
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * table_size - 1, channels // num_heads))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * table_size - 1, channels // num_heads))

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C); `grid` (rows, columns) is what the tables of positions are stretched to."""
        batch, height, width, channels = x.shape
        q, k, v = self.qkv(x).view(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(q, (height, width), grid))
        return self.proj(x.transpose(1, 2).reshape(batch, height, width, channels))

    def _bias(self, q: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor | None:
        """(B, heads, N, N) that position adds to the attention's logits."""
        if self.rel_pos_h is None or self.rel_pos_w is None:
            return None
        q = q.unflatten(2, size)
        of_rows = torch.einsum("bnhwc,hck->bnhwk", q, relative(self.rel_pos_h, size[0], grid[0]).to(q.dtype))
        of_columns = torch.einsum("bnhwc,wck->bnhwk", q, relative(self.rel_pos_w, size[1], grid[1]).to(q.dtype))
        bias = of_rows[..., :, None] + of_columns[..., None, :]
        return bias.flatten(4, 5).flatten(2, 3)


def relative(table: Tensor, size: int, grid: int) -> Tensor:
    """The row of a table of distances for every two places: (L, d) -> (size, d, size) at [i, :, j] that of i - j.

    The table is stretched to the 2 * grid - 1 distances of `grid` places, of which the first `size` are there.
    """
    table = resampled(table, 2 * grid - 1, mode="linear")[grid - size : grid + size - 1]
    if torch.compiler.is_exporting():  # windows of a size that is not known yet
        places = torch.arange(size, device=table.device)
        return table[places[:, None] - places + size - 1].transpose(1, 2)
    # Row i of the windows holds distances i - (size - 1) .. i.
    return table.unfold(0, size, 1).flip(-1)


def in_windows(x: Tensor, side: int) -> Tensor:
    """(B, h, w, C) -> (windows, side, side, C). Zeros fill the last ones: published models attend to them as well."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % side, 0, -x.shape[1] % side))
    rows, columns = x.shape[1] // side, x.shape[2] // side
    return x.unflatten(2, (columns, side)).unflatten(1, (rows, side)).transpose(2, 3).flatten(0, 2)


def out_of_windows(windows: Tensor, height: int, width: int) -> Tensor:
    """(windows, side, side, C) of `in_windows` -> (B, height, width, C), without what filled the last ones."""
    side = windows.shape[1]
    rows, columns = (height + side - 1) // side, (width + side - 1) // side  # ONNX's division rounds towards 0
    x = windows.unflatten(0, (-1, rows, columns)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return x[:, :height, :width]


class ResidualConvs(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut, which start as the identity (arXiv:2203.16527, section 3)."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.conv1 = ConvNorm(in_channels=channels, out_channels=inner, kernel_size=1, norm="ln")
        self.conv2 = ConvNorm(in_channels=inner, out_channels=inner, kernel_size=3, norm="ln")
        self.conv3 = ConvNorm(in_channels=inner, out_channels=channels, kernel_size=1, norm="ln")
        assert isinstance(self.conv3.norm, nn.LayerNorm)
        nn.init.zeros_(self.conv3.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class MLP(nn.Module):
    def __init__(self, *, channels: int, inner_channels: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, inner_channels), nn.Linear(inner_channels, channels)
        start((self.fc1, self.fc2), small_normal)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Attention and an MLP, each after a layer norm and beside a shortcut.

    Args:
        window_size: attention stays within windows of so many places squared; 0 is over the whole map.
        residual: puts `ResidualConvs` behind.
    """

    def __init__(
        self,
        *,
        channels: int,
        num_heads: int,
        mlp_ratio: float,
        window_size: int,
        table_size: int | None,
        drop_path: float,
        residual: bool,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(channels, eps=EPS)
        self.attn = Attention(channels=channels, num_heads=num_heads, table_size=table_size)
        self.norm2 = nn.LayerNorm(channels, eps=EPS)
        self.mlp = MLP(channels=channels, inner_channels=int(channels * mlp_ratio))
        self.drop_path1, self.drop_path2 = DropPath(rate=drop_path), DropPath(rate=drop_path)
        self.residual = ResidualConvs(channels=channels) if residual else None

    def forward(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, h, w, C) -> (B, h, w, C)."""
        x = x + self.drop_path1(self._attend(self.norm1(x), grid))
        x = x + self.drop_path2(self.mlp(self.norm2(x)))
        return x if self.residual is None else self.residual(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def _attend(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        window = self.window_size
        if not window:
            return self.attn(x, grid)
        windows: Tensor = self.attn(in_windows(x, window), (window, window))
        return out_of_windows(windows, x.shape[1], x.shape[2])


class ViT(Backbone):
    """Images (B, 3, H, W) -> one feature map at the patches' stride, without a last norm.

    Args:
        channels, depth, num_heads, mlp_ratio: of the blocks; an MLP is `mlp_ratio` times as wide as its input.
        patch_size: pixels of a patch's side.
        window_size: patches of a window's side; 0 makes all attention global.
        global_blocks, residual_blocks: indices of the blocks that attend to the whole map, and of those with
            convolutions behind.
        absolute_positions, relative_positions: whether there are such.
        class_token: whether the table of absolute positions has a first row, unused, of a class token.
        pretraining_size: pixels of the square that absolute positions have a row for every patch of.
        table_size: pixels of the square that global blocks' relative positions have a row for every distance of.
        square_size: positions are as on a square of so many pixels with the image at its top left (or on a square of
            the image's longer side, if that is more): a place means the same in an image of any shape, and the same
            as in a published model that pads to that square. None stretches the tables to each image's own sides.
        size_divisor: heights and widths of images are multiples of it, and of a patch's side.
        drop_path: stochastic depth of the last block; it grows linearly from 0.
        checkpointing: computes blocks again in the backward pass instead of keeping what is inside them.
        image_mean, image_std: what images are normalised with; RGB, 0..255.
    """

    undecayed = ("pos_embed",)

    def __init__(
        self,
        *,
        channels: int,
        depth: int,
        num_heads: int,
        mlp_ratio: float,
        patch_size: int,
        window_size: int,
        global_blocks: tuple[int, ...],
        residual_blocks: tuple[int, ...],
        absolute_positions: bool,
        relative_positions: bool,
        class_token: bool,
        pretraining_size: int,
        table_size: int,
        square_size: int | None,
        size_divisor: int | None,
        drop_path: float,
        checkpointing: bool,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
    ) -> None:
        super().__init__()
        self.channels, self.strides, self.patch_size = (channels,), (patch_size,), patch_size
        self.size_divisor = math.lcm(patch_size, size_divisor or 1)
        self.square_size, self.checkpointing = square_size, checkpointing
        self.image_mean, self.image_std = image_mean, image_std
        self.patch_embed = nn.Conv2d(3, channels, kernel_size=patch_size, stride=patch_size)
        self.pos_embed: nn.Parameter | None = None
        self.class_token = class_token
        if absolute_positions:
            self.pos_embed = nn.Parameter(torch.empty(1, (pretraining_size // patch_size) ** 2 + class_token, channels))
            small_normal(self.pos_embed)
        blocks = []
        for index in range(depth):
            window = 0 if index in global_blocks else window_size
            blocks.append(
                Block(
                    channels=channels,
                    num_heads=num_heads,
                    mlp_ratio=mlp_ratio,
                    window_size=window,
                    table_size=(window or table_size // patch_size) if relative_positions else None,
                    drop_path=drop_path * index / max(depth - 1, 1),
                    residual=index in residual_blocks,
                )
            )
        self.blocks = nn.ModuleList(blocks)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.patch_embed(images).permute(0, 2, 3, 1)
        grid = self._grid(x.shape[1], x.shape[2])
        if self.pos_embed is not None:
            x = x + self._positions(self.pos_embed, x.shape[1], x.shape[2], grid)
        for block in self.blocks:
            if self.checkpointing and self.training:
                # No random numbers are drawn inside; asking for the generator's state would stop a CUDA graph.
                x = checkpoint(block, x, grid, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, grid)
        return [x.permute(0, 3, 1, 2)]

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches that positions are made for."""
        if self.square_size is None:
            return height, width
        side = largest(height, width, self.square_size // self.patch_size)
        return side, side

    def _positions(self, table: Tensor, height: int, width: int, grid: tuple[int, int]) -> Tensor:
        """(height, width, C): the top left of the table stretched to the grid."""
        table = table[0, 1:] if self.class_token else table[0]
        side = math.isqrt(len(table))
        rows = resampled(table.view(side, side, -1), grid[0], mode="bicubic")[:height]
        return resampled(rows.transpose(0, 1), grid[1], mode="bicubic")[:width].transpose(0, 1)

    def layers_above(self, name: str) -> int:
        """Blocks from a parameter to the output: all and one more at the patches and positions, 0 behind the blocks.

        Args:
            name: below this module. Convolutions behind a block are new where the rest is pretrained: 0 as well.
        """
        if name == "pos_embed" or name.startswith("patch_embed."):
            return len(self.blocks) + 1
        block = re.match(r"blocks\.(\d+)\.(?!residual\.)", name)
        return len(self.blocks) - int(block[1]) if block else 0
