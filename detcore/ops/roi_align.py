"""RoIAlign: features of fixed size from boxes of any size."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
import torchvision
from torch import Tensor

from detcore.ops import native
from detcore.ops.shapes import expect

_MOST_SAMPLES = 256
"""Along a side of a bin: far more than the pixels that a bin of any use covers."""


def roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: int | tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool = True,
) -> Tensor:
    """RoIAlign (He et al., Mask R-CNN, 2017, section 3), as torchvision's, but defined for every input.

    Args:
        features: (B, C, H, W) float, any memory format; bf16 and fp16 are computed in fp32.
        rois: (K, 5), (batch index, x1, y1, x2, y2) in input pixels.
        output_size: height and width of the output.
        spatial_scale: feature pixels per input pixel.
        sampling_ratio: samples per bin and axis; 0 or less means as many as the bin has feature pixels, rounded up.
        aligned: shift by half a feature pixel, so that a pixel's centre lies at .5; False is the older convention,
            which also stretches RoIs to at least one feature pixel.

    Returns:
        (K, C, height, width) in the dtype of the features; differentiable in them. It is 0 for a RoI with a non-finite
        number or whose batch index names no image. Coordinates are clamped to three map
        lengths outside the feature map, which bounds the number of samples.
    """
    height, width = (output_size, output_size) if isinstance(output_size, int) else output_size
    check_grid("roi_align", (height, width), sampling_ratio)
    expect("roi_align", features=(features, "B C H W"), rois=(rois, "K 5"))
    if native.serves(features.device.type):
        return pool_rois([features], rois, None, [spatial_scale], (height, width), sampling_ratio, aligned=aligned)
    return roi_align_reference(features, rois, (height, width), spatial_scale, sampling_ratio, aligned)


def check_grid(operator: str, output_size: tuple[int, int], sampling_ratio: int) -> None:
    """Raises ValueError for an output of a negative size, and for more samples than a bin can use."""
    if min(output_size) < 0:
        raise ValueError(f"{operator}: output_size {output_size} must not be negative")
    if sampling_ratio > _MOST_SAMPLES:
        raise ValueError(f"{operator}: sampling_ratio {sampling_ratio} must be {_MOST_SAMPLES} at most")


def roi_align_reference(
    features: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool = True,
) -> Tensor:
    """`roi_align` by torchvision's operator, on RoIs made harmless to it."""
    dtype = features.dtype
    if dtype in (torch.bfloat16, torch.float16):
        features = features.float()
    rois = _defined(rois.detach().to(features.dtype), features, spatial_scale)
    if features.shape[0] == 0 or features.shape[2] * features.shape[3] == 0:  # nothing for any RoI to read
        return features.new_zeros((len(rois), features.shape[1], *output_size), dtype=dtype)
    pooled: Tensor = torchvision.ops.roi_align(features, rois, output_size, spatial_scale, sampling_ratio, aligned)
    return pooled.to(dtype)


def _defined(rois: Tensor, features: Tensor, spatial_scale: float) -> Tensor:
    """RoIs whose samples all have an address: torchvision's kernels read out of bounds for the others.

    Undefined ones go to an empty box so far outside of image 0 that all its samples are 0.
    """
    batch, reach = features.shape[0], max(features.shape[-2:]) / spatial_scale
    index, boxes = rois[:, :1], rois[:, 1:]
    usable = rois.isfinite().all(dim=1, keepdim=True) & (index >= 0) & (index < batch)
    boxes = torch.where(usable, boxes.clamp(-3 * reach, 4 * reach), -8 / spatial_scale)
    return torch.cat((torch.where(usable, index, 0), boxes), dim=1)


def pool_rois(
    features: Sequence[Tensor],
    rois: Tensor,
    valid: Tensor | None,
    scales: Sequence[float],
    output_size: tuple[int, int],
    sampling_ratio: int,
    *,
    aligned: bool = True,
    canonical_size: float = 1.0,
    canonical_level: int = 0,
) -> Tensor:
    """The native operator: RoIs (K, 5), each from the level of its size, counted from the first of `features`.

    Levels of several dtypes are read, and the result is given, in the one that holds them all.
    """
    dtype = reduce(torch.promote_types, (feature.dtype for feature in features))
    pooled: Tensor = torch.ops.detcore.roi_align(
        [feature.to(dtype) for feature in features],
        rois.detach(),
        valid,
        scales,
        *output_size,
        sampling_ratio,
        aligned,
        canonical_size,
        canonical_level,
        is_channels_last(features[0]),
    )
    return pooled


def is_channels_last(features: Tensor) -> bool:
    """Whether the results lie with the channels last too; a tensor that is contiguous both ways counts as NCHW."""
    return features.is_contiguous(memory_format=torch.channels_last) and not features.is_contiguous()


def layout(channels_last: bool) -> torch.memory_format:
    """Of an operator's result."""
    return torch.channels_last if channels_last else torch.contiguous_format


def _fake(
    features: list[Tensor], rois: Tensor, valid: Tensor | None, scales: list[float], h: int, w: int, *rest: Any
) -> Tensor:
    shape = (rois.shape[0], features[0].shape[1], h, w)
    return torch.empty(shape, dtype=features[0].dtype, device=rois.device, memory_format=layout(rest[-1]))


def _fake_backward(
    grad: Tensor,
    rois: Tensor,
    valid: Tensor | None,
    scales: list[float],
    heights: list[int],
    widths: list[int],
    batch: int,
    *rest: Any,
) -> list[Tensor]:
    return [
        torch.empty((batch, grad.shape[1], h, w), dtype=grad.dtype, device=grad.device, memory_format=layout(rest[-1]))
        for h, w in zip(heights, widths, strict=True)
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    features, rois, valid, scales, _, _, *rest = inputs
    ctx.save_for_backward(rois, valid)
    ctx.scales, ctx.rest = scales, rest
    ctx.heights, ctx.widths = [f.shape[2] for f in features], [f.shape[3] for f in features]
    ctx.batch = features[0].shape[0]


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    rois, valid = ctx.saved_tensors
    grads = torch.ops.detcore.roi_align_backward(
        grad, rois, valid, ctx.scales, ctx.heights, ctx.widths, ctx.batch, *ctx.rest
    )
    return (grads, *[None] * 10)


native.define(
    "roi_align",
    "(Tensor[] features, Tensor rois, Tensor? valid, float[] scales, SymInt height, SymInt width, int sampling_ratio, "
    "bool aligned, float canonical_size, int canonical_level, bool channels_last) -> Tensor",
    _fake,
    save=_save,
    backward=_backward,
)
native.define(
    "roi_align_backward",
    "(Tensor grad, Tensor rois, Tensor? valid, float[] scales, SymInt[] heights, SymInt[] widths, SymInt batch, "
    "int sampling_ratio, bool aligned, float canonical_size, int canonical_level, bool channels_last) -> Tensor[]",
    _fake_backward,
)
