"""Anchors: the reference boxes at every place of a feature map (Faster R-CNN, arXiv:1506.01497, section 3.1.1)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detcore.models.box_geometry import ROTATED, UPRIGHT, BoxGeometry


class AnchorGenerator(nn.Module):
    """The anchors of a pyramid's levels, made once for every combination of shapes.

    `geometry` says what kind of boxes they are.

    Args:
        sizes: for each level, square roots of areas in pixels.
        aspect_ratios: heights over widths.
        strides: of the levels, in pixels.
        offset: the first anchor's centre, in strides.
        rounded: half of each side is rounded to whole pixels, a half to the even one.
        fitted_steps: anchors of a level are as far apart as the padded image's side divided by the map's and rounded
            down, not as its stride. Images must have sides that the first stride divides.
    """

    geometry: BoxGeometry = UPRIGHT

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float],
        strides: Sequence[int],
        offset: float,
        rounded: bool = False,
        fitted_steps: bool = False,
    ) -> None:
        super().__init__()
        self.rounded, self.fitted_steps = rounded, fitted_steps
        self.sizes, self.aspect_ratios, self.strides, self.offset = sizes, aspect_ratios, strides, offset
        self.num_per_place = len(sizes[0]) * len(aspect_ratios)
        self._made: dict[tuple[object, ...], Tensor] = {}

    def forward(self, shapes: Sequence[tuple[int, int]], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Heights and widths of the levels -> (N, 4) xyxy; by level, row, column, size and ratio, in this order."""
        if torch.compiler.is_compiling():  # made anew, by a kernel or two: a graph for all shapes can't look them up
            return self._make(shapes, dtype=dtype, device=device)
        key = (tuple(shapes), dtype, device)
        if key not in self._made:
            # Made while predicting, they must still serve in training.
            with torch.inference_mode(False):
                self._made[key] = self._make(shapes, dtype=dtype, device=device)
        return self._made[key]

    def _make(self, shapes: Sequence[tuple[int, int]], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        levels = zip(shapes, self._steps(shapes), self.sizes, strict=True)
        return torch.cat([self._level(*level, dtype=dtype, device=device) for level in levels])

    def _steps(self, shapes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """From an anchor's centre to the next one's of each level, down and to the right, in pixels."""
        if not self.fitted_steps:
            return [(stride, stride) for stride in self.strides]
        height, width = (side * self.strides[0] for side in shapes[0])
        return [(height // rows, width // columns) for rows, columns in shapes]

    def _level(
        self,
        shape: tuple[int, int],
        steps: tuple[int, int],
        sizes: Sequence[float],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        half = _constants(self._sides(sizes), dtype=dtype, device=device) / 2  # (A, 2): width, height
        centre = self._centres(shape, steps, dtype=dtype, device=device)
        return torch.cat((centre - half, centre + half), dim=-1).reshape(-1, 4)

    def _sides(self, sizes: Sequence[float]) -> list[tuple[float, float]]:
        """Width and height, by size and ratio."""
        sides = [
            (math.sqrt(size * size / ratio), math.sqrt(size * size * ratio))
            for size in sizes
            for ratio in self.aspect_ratios
        ]
        return [(2.0 * round(width / 2), 2.0 * round(height / 2)) for width, height in sides] if self.rounded else sides

    def _centres(
        self, shape: tuple[int, int], steps: tuple[int, int], *, dtype: torch.dtype, device: torch.device
    ) -> Tensor:
        """(h * w, 1, 2): x and y of every place."""
        rows, columns = (
            (torch.arange(count, dtype=dtype, device=device) + self.offset) * step
            for count, step in zip(shape, steps, strict=True)
        )
        return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).reshape(-1, 1, 2)


class RotatedAnchorGenerator(AnchorGenerator):
    """Anchors of several angles, (N, 5) xywha, the angle last in their order: RRPN, arXiv:1703.01086, section 4.1.

    Args:
        angles_deg: degrees, counter-clockwise as one sees the image.
        the others: see `AnchorGenerator`.
    """

    geometry = ROTATED

    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]],
        aspect_ratios: Sequence[float],
        angles_deg: Sequence[float],
        strides: Sequence[int],
        offset: float,
        rounded: bool = False,
        fitted_steps: bool = False,
    ) -> None:
        super().__init__(
            sizes=sizes,
            aspect_ratios=aspect_ratios,
            strides=strides,
            offset=offset,
            rounded=rounded,
            fitted_steps=fitted_steps,
        )
        self.angles_deg = angles_deg
        self.num_per_place *= len(angles_deg)

    def _level(
        self,
        shape: tuple[int, int],
        steps: tuple[int, int],
        sizes: Sequence[float],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> Tensor:
        kinds = [(*sides, angle) for sides in self._sides(sizes) for angle in self.angles_deg]
        kind = _constants(kinds, dtype=dtype, device=device)  # (A, 3): width, height, angle
        centre = self._centres(shape, steps, dtype=dtype, device=device)
        parts = (centre.expand(-1, len(kind), -1), kind.expand(len(centre), -1, -1))
        return torch.cat(parts, dim=-1).reshape(-1, 5)


def _constants(rows: Sequence[Sequence[float]], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows of numbers as a tensor that is filled on its device: `torch.tensor` would copy it from the host."""
    numbers = [torch.full((), number, dtype=dtype, device=device) for row in rows for number in row]
    return torch.stack(numbers).view(len(rows), -1)
