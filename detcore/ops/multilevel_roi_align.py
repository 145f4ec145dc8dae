"""RoIAlign over a feature pyramid: each box is pooled from the level of its size."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from detcore.ops import native
from detcore.ops.roi_align import check_grid, pool_rois
from detcore.ops.roi_align import roi_align_reference as roi_align
from detcore.ops.roi_align_rotated import roi_align_rotated
from detcore.ops.shapes import expect


def multilevel_roi_align(
    features: Sequence[Tensor],
    boxes: Tensor,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int = 0,
    *,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
    valid: Tensor | None = None,
    aligned: bool = True,
) -> Tensor:
    """Pools every box from the pyramid level that equation 1 of FPN (Lin et al. 2017) assigns it to.

    The level is floor(canonical_level + log2(sqrt(area) / canonical_size)), held to the levels present. On a GPU no
    shape depends on the data and nothing is read back.

    Args:
        features: per level (B, C, H, W), on CUDA 16 levels at most; of several dtypes the widest counts.
        boxes: (B, R, 4), (x1, y1, x2, y2) in input pixels.
        strides: input pixels per feature pixel of each level: consecutive rising powers of two.
        output_size: S.
        sampling_ratio: as in `roi_align`, 0 included.
        canonical_size: the box size, in input pixels, that belongs to canonical_level.
        canonical_level: log2 of that level's stride.
        valid: (B, R) bool; the output of the others is 0. None means all.
        aligned: False samples half a feature pixel further to the right and down, and takes no box for narrower than
            a feature pixel, as RoIAlign was before centres of pixels were aligned.

    Returns:
        (B * R, C, S, S), image by image; differentiable in the features.

    Raises:
        ValueError: if the levels do not match the strides, or the strides are not consecutive powers of two; if
            canonical_size is not above 0.
    """
    if not canonical_size > 0:
        raise ValueError(f"multilevel_roi_align: canonical_size {canonical_size} must be above 0")
    check_grid("multilevel_roi_align", (output_size, output_size), sampling_ratio)
    levels = _levels(strides, len(features))
    maps = {f"features[{level}]": (feature, "B C _ _") for level, feature in enumerate(features)}
    expect("multilevel_roi_align", **maps, boxes=(boxes, "B R 4"), valid=(valid, "B R"))
    rois, valid = _flat(boxes.detach()), None if valid is None else valid.reshape(-1)
    if not aligned:
        rois = _unaligned(rois, strides, _assign(rois, levels, canonical_size, canonical_level))
    if native.serves(rois.device.type):
        return pool_rois(
            features,
            rois,
            valid,
            [1 / stride for stride in strides],
            (output_size, output_size),
            sampling_ratio,
            canonical_size=canonical_size,
            canonical_level=canonical_level - levels[0],
        )
    level = _assign(rois, levels, canonical_size, canonical_level)
    return _pool(features, rois, level, valid, strides, output_size, sampling_ratio, roi_align)


def multilevel_roi_align_rotated(
    features: Sequence[Tensor],
    boxes: Tensor,
    strides: Sequence[int],
    output_size: int,
    sampling_ratio: int = 0,
    *,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
    valid: Tensor | None = None,
) -> Tensor:
    """`multilevel_roi_align` for rotated boxes (B, R, 5), see `roi_align_rotated`; features are of one dtype.

    On a GPU every level is asked for every box, those of other levels as undefined ones: no shape depends on the data,
    and an undefined box costs no more than its zeros.
    """
    if not canonical_size > 0:
        raise ValueError(f"multilevel_roi_align_rotated: canonical_size {canonical_size} must be above 0")
    levels = _levels(strides, len(features))
    maps = {f"features[{level}]": (feature, "B C _ _") for level, feature in enumerate(features)}
    expect("multilevel_roi_align_rotated", **maps, boxes=(boxes, "B R 5"), valid=(valid, "B R"))
    rois, valid = _flat(boxes.detach()), None if valid is None else valid.reshape(-1)
    level = _level_of(rois[:, 3].clamp(min=0) * rois[:, 4].clamp(min=0), levels, canonical_size, canonical_level)
    return _pool(features, rois, level, valid, strides, output_size, sampling_ratio, roi_align_rotated)


def _levels(strides: Sequence[int], num_maps: int) -> list[int]:
    """log2 of each stride."""
    levels = [stride.bit_length() - 1 for stride in strides]
    if (
        not strides
        or num_maps != len(strides)
        or [2**level for level in levels] != list(strides)
        or levels != list(range(levels[0], levels[0] + len(levels)))
    ):
        raise ValueError(
            f"strides {list(strides)} for {num_maps} feature maps: needs one per map, consecutive powers of two"
        )
    return levels


def _flat(boxes: Tensor) -> Tensor:
    """(B, R, 4 or 5) -> RoIs (B * R, 5 or 6), each with its image's index first."""
    batch, num_boxes, numbers = boxes.shape
    boxes = boxes.to(torch.promote_types(boxes.dtype, torch.float32))
    image = torch.arange(batch, dtype=boxes.dtype, device=boxes.device).view(-1, 1, 1)
    return torch.cat((image.expand(-1, num_boxes, 1), boxes), dim=2).reshape(-1, numbers + 1)


def _unaligned(rois: Tensor, strides: Sequence[int], level: Tensor) -> Tensor:
    """The RoIs (K, 5) that pool, with aligned centres, what `rois` of these levels pool without.

    They stay on their levels: their areas change only where a side is below the stride, too little to matter.
    """
    stride = (float(strides[0]) * 2.0 ** level.to(rois.dtype))[:, None]  # no table: it would be a copy to the device
    low, high = rois[:, 1:3], rois[:, 3:]
    return torch.cat((rois[:, :1], low + stride / 2, torch.maximum(high, low + stride) + stride / 2), dim=1)


def _assign(rois: Tensor, levels: Sequence[int], canonical_size: float, canonical_level: int) -> Tensor:
    """Each RoI's place (K,) int64 in the list of levels."""
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    return _level_of(area, levels, canonical_size, canonical_level)


def _level_of(area: Tensor, levels: Sequence[int], canonical_size: float, canonical_level: int) -> Tensor:
    exact = canonical_level + torch.log2(area.nan_to_num(nan=0.0).clamp(min=0).sqrt() / canonical_size + 1e-8)
    return exact.clamp(levels[0], levels[-1]).floor().to(torch.int64) - levels[0]


Align = Callable[[Tensor, Tensor, tuple[int, int], float, int], Tensor]
"""RoIAlign of one level: features, RoIs, output size, scale, sampling ratio."""


def _pool(
    features: Sequence[Tensor],
    rois: Tensor,
    level: Tensor,
    valid: Tensor | None,
    strides: Sequence[int],
    output_size: int,
    sampling: int,
    align: Align,
) -> Tensor:
    if valid is not None:
        level = torch.where(valid, level, -1)
    pool = _pool_grouped if rois.is_cpu and not torch.compiler.is_compiling() else _pool_everywhere
    return pool(features, rois, level, strides, output_size, sampling, align)


def _pool_grouped(
    features: Sequence[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: Sequence[int],
    output_size: int,
    sampling: int,
    align: Align = roi_align,
) -> Tensor:
    """Each level pools its own RoIs alone: the least work, but the number of them is read by the host."""
    members = [(level == place).nonzero()[:, 0] for place in range(len(strides))]
    pooled = [
        align(feature, rois[own], (output_size, output_size), 1 / stride, sampling)
        for feature, own, stride in zip(features, members, strides, strict=True)
    ]
    out = features[0].new_zeros((len(rois), features[0].shape[1], output_size, output_size))
    return out.index_copy(0, torch.cat(members), torch.cat(pooled))


def _pool_everywhere(
    features: Sequence[Tensor],
    rois: Tensor,
    level: Tensor,
    strides: Sequence[int],
    output_size: int,
    sampling: int,
    align: Align = roi_align,
) -> Tensor:
    """Every level sees every RoI, those of other levels as undefined ones, which cost little and add 0."""
    total: Tensor | None = None
    for place, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        own = torch.where((level == place)[:, None], rois, torch.nan)
        pooled = align(feature, own, (output_size, output_size), 1 / stride, sampling)
        total = pooled if total is None else total + pooled
    assert total is not None
    return total
