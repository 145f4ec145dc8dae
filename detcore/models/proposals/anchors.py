"""Anchors: the reference boxes at every place of a feature map (Faster R-CNN, arXiv:1506.01497, section 3.1.1)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AnchorGenerator(nn.Module):
    """The anchors of a pyramid's levels, made once for every combination of shapes.

    Args:
        sizes: for each level, square roots of areas in pixels.
        aspect_ratios: heights over widths.
        strides: of the levels, in pixels.
        offset: the first anchor's centre, in strides.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float],
        strides: Sequence[int],
        offset: float,
    ) -> None:
        super().__init__()
        self.sizes, self.aspect_ratios, self.strides, self.offset = sizes, aspect_ratios, strides, offset
        self.num_per_place = len(sizes[0]) * len(aspect_ratios)
        self._made: dict[tuple[object, ...], Tensor] = {}

    def forward(self, shapes: Sequence[tuple[int, int]], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Heights and widths of the levels -> (N, 4) xyxy; by level, row, column, size and ratio, in this order."""
        key = (tuple(shapes), dtype, device)
        if key not in self._made:
            # Made while predicting, they must still serve in training.
            with torch.inference_mode(False):
                levels = zip(shapes, self.strides, self.sizes, strict=True)
                made = [self._level(*level, dtype=dtype, device=device) for level in levels]
                self._made[key] = torch.cat(made)
        return self._made[key]

    def _level(
        self, shape: tuple[int, int], stride: int, sizes: Sequence[float], *, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        sides = [
            (math.sqrt(size * size / ratio), math.sqrt(size * size * ratio))
            for size in sizes
            for ratio in self.aspect_ratios
        ]
        half = torch.tensor(sides, dtype=dtype, device=device) / 2  # (A, 2): width, height
        rows, columns = ((torch.arange(count, dtype=dtype, device=device) + self.offset) * stride for count in shape)
        centre = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(-1, 1, 2)
        return torch.cat((centre - half, centre + half), dim=-1).reshape(-1, 4)
