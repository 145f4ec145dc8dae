"""RoIAlign, upright and rotated, on one level and on a pyramid."""

from collections.abc import Iterator

import torch
from torch import Tensor

from detcore import ops
from detcore.ops.multilevel_roi_align import _assign, _flat, _pool_everywhere, _pool_grouped
from detcore.ops.roi_align import roi_align_reference
from op_cases.case import Case, boxes, with_backward


def roi_cases(device: str) -> Iterator[Case]:
    batch, scale = (16, 1) if device == "cuda" else (2, 16)
    planes = torch.randn((batch, 256, 100, 168), device=device)
    last = planes.contiguous(memory_format=torch.channels_last)
    for size, count, bars in ((7, 8192, (0.5, 2.5)), (14, 2048, (0.5, 2.5))):
        count //= scale
        image = torch.randint(0, batch, (count, 1), device=device).float()
        rois = torch.cat((image, boxes(count, 1000, 300, device)), dim=1)

        def pool(features: Tensor, own: Tensor = rois, size: int = size) -> Tensor:
            return ops.roi_align(features, own, size, 0.125, 2)

        def pool_theirs(features: Tensor, own: Tensor = rois, size: int = size) -> Tensor:
            return roi_align_reference(features, own, (size, size), 0.125, 2)

        for kind, own in (("NCHW", planes), ("NHWC", last), ("NHWC bf16", last.bfloat16())):
            bar_forward, bar_both = bars if device == "cuda" else (1.0, 1.0)
            name = f"roi_align {size}x{size}, {count} RoIs, {kind}"
            yield Case(f"{name}, fwd", lambda f=own, p=pool: p(f), lambda f=planes, p=pool_theirs: p(f), bar_forward)
            yield Case(f"{name}, fwd+bwd", with_backward(pool, own), with_backward(pool_theirs, planes), bar_both)
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

    name, bar = "multilevel_roi_align 7x7, 2 x 512 boxes", 5.0 if device == "cuda" else 1.0
    yield Case(f"{name}, fwd", lambda: levels(*pyramid), lambda: levels_theirs(*pyramid), bar)
    yield Case(f"{name}, fwd+bwd", with_backward(levels, *pyramid), with_backward(levels_theirs, *pyramid), bar)
