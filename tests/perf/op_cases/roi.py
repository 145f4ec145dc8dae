"""RoIAlign, upright and rotated, on one level and on a pyramid."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from detcore import ops
from detcore.ops.multilevel_roi_align import _assign, _flat, _pool_everywhere, _pool_grouped
from detcore.ops.roi_align import roi_align_reference
from detcore.ops.roi_align_rotated import roi_align_rotated_reference
from op_cases.case import Case, boxes, size_of, with_backward

Pool = Callable[..., Tensor]


def forward_and_both(
    name: str, ours: Pool, features: list[Tensor], theirs: Pool, planes: list[Tensor], bars: tuple[float, float]
) -> Iterator[Case]:
    """The forward pass, and both. They read the features and write the output; then the other way round."""
    moved = size_of(*features, ours(*features))
    yield Case(f"{name}, fwd", lambda: ours(*features), lambda: theirs(*planes), bars[0], moved)
    both = (with_backward(ours, *features), with_backward(theirs, *planes))
    yield Case(f"{name}, fwd+bwd", *both, bars[1], 2 * moved)


def roi_cases(device: str) -> Iterator[Case]:
    cuda = device == "cuda"
    batch, scale = (16, 1) if cuda else (2, 16)
    planes = torch.randn((batch, 256, 100, 168), device=device)
    last = planes.contiguous(memory_format=torch.channels_last)
    kinds = (("fp32 NCHW", planes), ("fp32 NHWC", last), ("bf16 NHWC", last.bfloat16()))
    # The bars are for bf16 in NHWC; the other kinds are held to torchvision's own time on an H100.
    for size, count, bars, torchvisions in (
        (7, 8192, (0.5, 2.5), (2.5, 12.3)),
        (14, 2048, (0.5, 2.5), (2.4, 10.3)),
    ):
        count //= scale
        image = torch.randint(0, batch, (count, 1), device=device).float()
        rois = torch.cat((image, boxes(count, 1000, 300, device)), dim=1)

        def pool(features: Tensor, own: Tensor = rois, size: int = size) -> Tensor:
            return ops.roi_align(features, own, size, 0.125, 2)

        def pool_theirs(features: Tensor, own: Tensor = rois, size: int = size) -> Tensor:
            return roi_align_reference(features, own, (size, size), 0.125, 2)

        for kind, own in kinds:
            limits = (bars if kind == "bf16 NHWC" else torchvisions) if cuda else (1.0, 1.0)
            name = f"roi_align {size}x{size}, {count} RoIs, {kind}"
            yield from forward_and_both(name, pool, [own], pool_theirs, [planes], limits)
    yield from rotated_cases(device, kinds, 8192 // scale)
    yield from pyramid_cases(device)


def rotated_cases(device: str, kinds: tuple[tuple[str, Tensor], ...], count: int) -> Iterator[Case]:
    features = kinds[1][1]
    corners = boxes(count, 1000, 300, device)
    image = torch.randint(0, len(features), (count, 1), device=device).float()
    angle = torch.rand((count, 1), device=device) * 360
    sides = corners[:, 2:] - corners[:, :2]
    rois = torch.cat((image, corners[:, :2] + sides / 2, sides, angle), dim=1)

    def pool(features: Tensor) -> Tensor:
        return ops.roi_align_rotated(features, rois, 7, 0.125, 2)

    def pool_theirs(features: Tensor) -> Tensor:
        return roi_align_rotated_reference(features, rois, (7, 7), 0.125, 2)

    bars = (0.7, 4.0) if device == "cuda" else (20.0, 20.0)
    for kind, own in kinds:
        name = f"roi_align_rotated 7x7, {count} RoIs, {kind}"
        yield from forward_and_both(name, pool, [own], pool_theirs, [features], bars)


def pyramid_cases(device: str) -> Iterator[Case]:
    strides = (4, 8, 16, 32)
    pyramid = [
        torch.randn((2, 256, 800 // s, 1088 // s), device=device).contiguous(memory_format=torch.channels_last)
        for s in strides
    ]
    own = boxes(512, 700, 400, device, 2)

    def levels(*features: Tensor) -> Tensor:
        return ops.multilevel_roi_align(features, own, strides, 7, 2)

    def levels_theirs(*features: Tensor) -> Tensor:
        rois = _flat(own)
        pool_levels = _pool_everywhere if own.is_cuda else _pool_grouped
        return pool_levels(features, rois, _assign(rois, [2, 3, 4, 5], 224.0, 4), strides, 7, 2)

    bars = (5.0, 5.0) if device == "cuda" else (1.0, 1.0)
    name = "multilevel_roi_align 7x7, 2 x 512 boxes, fp32 NHWC"
    yield from forward_and_both(name, levels, pyramid, levels_theirs, pyramid, bars)
