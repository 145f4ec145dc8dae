"""A detector as one graph of tensors, for any number and any size of images."""

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode

from detcore.ops import native
from detcore.structures.batch import Batch, Detections

INPUTS = ("images", "image_sizes")
_TRACED_SIZE = (384, 512)
"""Before it is rounded up to the divisor; sides that differ, and no level of a pyramid with a side of 1, so that
nothing is taken for a constant."""


_LEAST_SIDE = 64
"""Pixels. Where a map has a single place along a side, a graph of any size does not hold."""


class DetectorGraph(nn.Module):
    """A detector that takes plain tensors and gives them by name. It normalises images itself.

    Args:
        model: a detector, in evaluation mode.
        image_mean, image_std: of R, G and B on the scale 0..255.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, *, image_mean: Sequence[float], image_std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(image_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(image_std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
        """The fields of `Detections` that this detector has, by their names.

        Args:
            images: (B, 3, H, W) float32, RGB on the scale 0..255; content at the top left.
            image_sizes: (B, 2) int64, height and width of the content; what lies outside of it does not count.
        """
        count, _, height, width = images.shape
        device = images.device
        rows = torch.arange(height, device=device)[:, None] < image_sizes[:, 0, None, None]
        columns = torch.arange(width, device=device) < image_sizes[:, 1, None, None]
        pixels = torch.where((rows & columns)[:, None], (images - self.mean) / self.std, 0.0)
        batch = Batch(
            images=pixels,
            image_sizes=image_sizes,
            sample_ids=torch.arange(count, device=device),
            real=torch.ones(count, dtype=torch.bool, device=device),
            original_sizes=image_sizes,
            geometry=torch.eye(3, device=device).expand(count, 3, 3),
            rng_key=torch.zeros(2, dtype=torch.int64, device=device),
        )
        with _PlainAttention():
            return named(self.model.detect(batch))  # type: ignore[operator]


class _PlainAttention(TorchFunctionMode):
    """Attention as two products and a softmax.

    The kernels that it is traced with lay their result out in another way than what exporters make of it, and a view
    that the one allows is none of the other.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        return _attention(*args, **kwargs)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0
) -> Tensor:
    logits = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    return (logits if attn_mask is None else logits + attn_mask).softmax(dim=-1) @ value


def named(detections: Detections) -> dict[str, Tensor]:
    """The tensors of detections by the names of their fields."""
    values = {field.name: getattr(detections, field.name) for field in fields(detections)}
    return {name: value for name, value in values.items() if value is not None}


def traced(graph: DetectorGraph, *, size_divisor: int) -> ExportedProgram:
    """The graph as a program, of any number of images whose sides are any multiples of `size_divisor`, or a large one.

    Raises:
        ValueError: the detector does something that depends on more than shapes.
    """
    height, width = (-(-side // size_divisor) * size_divisor for side in _TRACED_SIZE)
    images = torch.zeros(2, 3, height, width)
    least = max(2, _LEAST_SIDE // size_divisor)
    sizes = torch.tensor([[height, width], [height // 2, width - 3]])
    batch, rows, columns = Dim("batch", min=1), Dim("rows", min=least), Dim("columns", min=least)
    sides = {} if size_divisor >= min(_TRACED_SIZE) else {2: size_divisor * rows, 3: size_divisor * columns}
    shapes = {"images": {0: batch, **sides}, "image_sizes": {0: batch}}
    # Operators as they are declared, whether this machine has their kernels or not.
    try:
        with torch.no_grad(), native.declared():
            return torch.export.export(graph, (images, sizes), dynamic_shapes=shapes, strict=False)
    except (RuntimeError, torch._dynamo.exc.UserError) as error:
        raise ValueError(f"this detector is no single graph: {' '.join(str(error).split())[:300]}") from error
