"""Finished pixels of samples that were mixed of several images, or have steps: after the warp, on its device."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detcore.data.augmentation.canvas import Layer, Region
from detcore.data.augmentation.geometry import Size
from detcore.data.label_maps import UNLABELLED
from detcore.data.outlines import fill_rings


def coverage(layer: Layer, size: Size) -> NDArray[np.bool_] | None:
    """Where a layer is on a canvas of `size`, (h, w); None means everywhere."""
    mask: NDArray[np.bool_] | None = None
    for region in layer.regions:
        own = _rectangle(region, size)
        own = fill_rings(region.vertices, region.counts, size) if own is None else own
        mask = own if mask is None else mask & own
    return mask


def _rectangle(region: Region, size: Size) -> NDArray[np.bool_] | None:
    """The mask of an upright rectangle: of the pixels whose centres are in it. None if it is none."""
    if len(region.vertices) != 4:
        return None
    low, high = region.vertices.min(axis=0), region.vertices.max(axis=0)
    if not np.isin(region.vertices, [low, high]).all():
        return None
    mask = np.zeros(size, np.bool_)
    x0, y0, x1, y1 = np.ceil(np.concatenate([low, high]) - 0.5).clip(0, max(size)).astype(int).tolist()
    mask[y0:y1, x0:x1] = True
    return mask


def compose(ground: Tensor, over: Sequence[Tensor], layers: Sequence[Layer], size: Size) -> None:
    """Lays layers over the ground of one image, in place.

    Args:
        ground: (3, H, W), the pixels of the first layer as it is warped, to be cut down to its own regions.
        over: (3, H, W) of each further layer, in their order.
        layers: all of them.
        size: height and width of the content, at the top left.
    """
    _restrict(ground, layers[0], size, fill=0.0)
    height, width = size
    ground = ground[:, :height, :width]
    for layer, pixels in zip(layers[1:], over, strict=True):
        mask = coverage(layer, size)
        if mask is None:
            ground.lerp_(pixels[:, :height, :width], layer.opacity)
            continue
        weight = torch.from_numpy(mask).to(ground.device)
        if layer.opacity < 1.0:
            ground.lerp_(pixels[:, :height, :width], (layer.opacity * weight).to(ground.dtype).expand_as(ground))
        else:
            ground.copy_(torch.where(weight, pixels[:, :height, :width], ground))


def compose_labels(ground: Tensor, over: Sequence[Tensor], layers: Sequence[Layer], size: Size) -> None:
    """`compose` for maps of classes (H, W): where a layer hides more than half of what is below, its labels count."""
    _restrict(ground, layers[0], size, fill=UNLABELLED)
    height, width = size
    ground = ground[:height, :width]
    for layer, labels in zip(layers[1:], over, strict=True):
        if layer.opacity > 0.5:
            mask = coverage(layer, size)
            hidden = torch.ones_like(ground, dtype=torch.bool) if mask is None else torch.from_numpy(mask)
            ground.copy_(torch.where(hidden.to(ground.device), labels[:height, :width], ground))


def _restrict(pixels: Tensor, layer: Layer, size: Size, *, fill: float) -> None:
    """Sets what lies outside a layer's regions, in place: the last two axes of `pixels` are (H, W)."""
    mask = coverage(layer, size)
    if mask is not None:
        pixels[..., : size[0], : size[1]].masked_fill_(torch.from_numpy(~mask).to(pixels.device), fill)
