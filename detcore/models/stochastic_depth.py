"""Stochastic depth (arXiv:1603.09382): in training, residual branches are left out at random."""

from collections.abc import Iterable

import torch
from timm.layers.drop import DropPath as TimmDropPath
from torch import Tensor, nn

from detcore.ops import keyed_uniform
from detcore.structures.batch import Batch

RANDOM_SITE = 40
"""Keys this module's random numbers; every place that draws has its own."""


class DropPath(nn.Module):
    """In training, 0 for an image's branch with probability `rate`, else the branch divided by the rest of it.

    Which images lose it is drawn by `draw_paths` before each step: by sample, not by rank or place in the batch.
    """

    def __init__(self, *, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.drawn: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> (B, ...). Raises ValueError in training before anything was drawn."""
        if not self.training or self.rate == 0:
            return x
        if self.drawn is None:
            raise ValueError("drop_path in training: the detector's losses must call backbone.draw(batch) first")
        factor = (self.drawn >= self.rate).to(x.dtype) / max(1 - self.rate, 1e-6)
        return x * factor.view(-1, *[1] * (x.dim() - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate:g}"


def draw_paths(modules: Iterable[nn.Module], batch: Batch) -> None:
    """Draws a number for every image and every `DropPath` among the modules."""
    paths = [module for module in modules if isinstance(module, DropPath)]
    if not paths:
        return
    seed, step = batch.rng_key.unbind()
    candidates = torch.arange(len(paths), device=batch.sample_ids.device)
    drawn = keyed_uniform(seed, step, batch.sample_ids, RANDOM_SITE, candidates)
    for path, column in zip(paths, drawn.unbind(1), strict=True):
        path.drawn = column


def replace_drop_path(module: nn.Module) -> None:
    """Puts ours in place of timm's below `module`: theirs draw from torch's generator, which depends on the rank."""
    for name, child in module.named_children():
        if isinstance(child, TimmDropPath):
            setattr(module, name, DropPath(rate=child.drop_prob))
        else:
            replace_drop_path(child)
