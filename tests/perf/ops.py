"""The operators against torchvision's, or against the references where torchvision has none.

`python tests/perf/ops.py --device cpu [--threads 2] [--json FILE] [--case NAME]`. Ours and theirs take turns in one
process; a time is the median. On the CPU a bar is a ratio (theirs / ours), on CUDA a time in milliseconds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor

from detcore import ops
from detcore.ops import native
from detcore.ops.losses import sigmoid_focal_loss_reference
from detcore.ops.masks import paste_masks_reference, polygon_roi_masks_reference
from detcore.ops.matching import match_anchors_reference
from detcore.ops.multilevel_roi_align import _assign, _flat, _pool_everywhere, _pool_grouped
from detcore.ops.nms import nms_padded_reference
from detcore.ops.random import keyed_uniform_reference
from detcore.ops.roi_align import roi_align_reference
from detcore.ops.rotated import box_iou_rotated_reference, nms_rotated_padded_reference
from detcore.ops.warp import warp_normalize_reference
from detcore.structures.batch import Polygons

Call = Callable[[], object]


class Case(NamedTuple):
    name: str
    ours: Call
    theirs: Call
    bar: float
    """On the CPU theirs / ours, at least; on CUDA milliseconds, at most."""


def boxes(count: int, extent: float, largest: float, device: str, *batch: int) -> Tensor:
    low = torch.rand((*batch, count, 2), device=device) * extent
    return torch.cat((low, low + torch.rand((*batch, count, 2), device=device) * largest + 1), dim=-1)


def with_backward(function: Callable[..., Tensor], *leaves: Tensor) -> Call:
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    grad = torch.rand_like(function(*inputs))

    def run() -> None:
        torch.autograd.grad(function(*inputs), inputs, grad)

    return run


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


def nms_cases(device: str) -> Iterator[Case]:
    cuda = device == "cuda"
    for count, bar in ((1000, 0.07), (5000, 0.3), (20000, 1.7)):
        own, scores = boxes(count, 4000, 30, device), torch.rand(count, device=device)
        yield Case(
            f"nms, {count} boxes",
            lambda b=own, s=scores: ops.nms(b, s, 0.5),
            lambda b=own, s=scores: torchvision.ops.nms(b, s, 0.5),
            bar if cuda else 1.0,
        )
    groups = torch.randint(0, 80, (20000,), device=device)
    yield Case(
        "batched_nms, 20000 boxes, 80 classes",
        lambda: ops.batched_nms(own, scores, groups, 0.5),
        lambda: torchvision.ops.batched_nms(own, scores, groups, 0.5),
        0.5 if cuda else 1.0,
    )
    crowded, confidence = boxes(1000, 500, 200, device, 2), torch.rand((2, 1000), device=device)
    valid = torch.ones_like(confidence, dtype=torch.bool)
    yield Case(
        "nms_padded, 2 x 1000 boxes",
        lambda: ops.nms_padded(crowded, confidence, None, 0.7, 300),
        lambda: nms_padded_reference(crowded, confidence, None, 0.7, 300, valid),
        0.2 if cuda else 20.0,
    )


def rotated_cases(device: str) -> Iterator[Case]:
    cuda = device == "cuda"

    def rotated(count: int, extent: float) -> Tensor:
        sides = torch.rand((count, 2), device=device) * 30 + 2
        return torch.cat((torch.rand((count, 2), device=device) * extent, sides, sides[:, :1] * 12), dim=1)

    a, b = rotated(2000, 1000), rotated(2000, 1000)
    yield Case(
        "box_iou_rotated, 2000 x 2000",
        lambda: ops.box_iou_rotated(a, b),
        lambda: box_iou_rotated_reference(a, b),
        0.15 if cuda else 20.0,
    )
    own, scores = rotated(1000, 1000)[None], torch.rand((1, 1000), device=device)
    valid = torch.ones_like(scores, dtype=torch.bool)
    yield Case(
        "nms_rotated, 1000 boxes",
        lambda: ops.nms_rotated(own[0], scores[0], 0.5),
        lambda: nms_rotated_padded_reference(own, scores, None, 0.5, 1000, valid),
        0.1 if cuda else 20.0,
    )


def matching_cases(device: str) -> Iterator[Case]:
    cuda = device == "cuda"
    batch, count = (16, 250_000) if cuda else (2, 100_000)
    anchors, truth = boxes(count, 1000, 300, device)[None], boxes(100, 800, 300, device, batch)
    valid = torch.ones(truth.shape[:2], dtype=torch.bool, device=device)
    yield Case(
        f"match_anchors, {count} anchors x 100 boxes, {batch} images",
        lambda: ops.match_anchors(anchors, truth, valid, (0.3, 0.7), True),
        lambda: match_anchors_reference(anchors, truth, valid, (0.3, 0.7), True),
        1.0 if cuda else 20.0,
    )
    ids, candidates = torch.arange(batch, device=device), torch.arange(count, device=device)
    yield Case(
        f"keyed_uniform, {batch} x {count}",
        lambda: ops.keyed_uniform(1, 2, ids, 3, candidates),
        lambda: keyed_uniform_reference(1, 2, ids, 3, candidates),
        0.1 if cuda else 20.0,
    )
    logits = torch.randn((batch, 20_000, 80), device=device)
    labels = (torch.rand_like(logits) < 0.01).float()

    def focal(x: Tensor) -> Tensor:
        return ops.sigmoid_focal_loss(x, labels)

    def focal_theirs(x: Tensor) -> Tensor:
        return torchvision.ops.sigmoid_focal_loss(x, labels)

    name = f"sigmoid_focal_loss, {logits.numel()} logits"
    yield Case(f"{name}, fwd", lambda: focal(logits), lambda: focal_theirs(logits), 1.0)
    yield Case(f"{name}, fwd+bwd", with_backward(focal, logits), with_backward(focal_theirs, logits), 1.0)
    yield Case(
        f"{name}, fwd, against the reference",
        lambda: focal(logits),
        lambda: sigmoid_focal_loss_reference(logits, labels, 0.25, 2.0),
        1.0,
    )


def mask_cases(device: str) -> Iterator[Case]:
    cuda = device == "cuda"
    masks, own = torch.rand((100, 28, 28), device=device), boxes(100, 700, 300, device)
    yield Case(
        "paste_masks, 100 masks on 800x1333",
        lambda: ops.paste_masks(masks, own, (800, 1333), 0.5),
        lambda: paste_masks_reference(masks, own, (800, 1333), 0.5),
        0.2 if cuda else 20.0,
    )
    angles = torch.arange(50, device=device) * (6.2832 / 50)
    circle = torch.stack((angles.cos(), angles.sin()), dim=1) * 60
    centres = torch.rand((2, 20, 1, 2), device=device) * 700
    starts = torch.arange(0, 1000, 50, device=device).repeat(2, 1)
    objects = torch.arange(20, device=device).repeat(2, 1)
    outlines = Polygons((centres + circle).reshape(2, 1000, 2), starts, torch.full_like(starts, 50), objects)
    matched = torch.randint(0, 20, (2, 128), device=device)
    rois = torch.cat((centres - 50, centres + 50), dim=-1)[:, :, 0].gather(1, matched[..., None].expand(-1, -1, 4))
    yield Case(
        "polygon_roi_masks 28x28, 2 x 128 boxes",
        lambda: ops.polygon_roi_masks(outlines, rois, matched, 28),
        lambda: polygon_roi_masks_reference(outlines, rois, matched, 28),
        0.1 if cuda else 20.0,
    )


def warp_cases(device: str) -> Iterator[Case]:
    image = torch.randint(0, 256, (480, 640, 3), dtype=torch.uint8, device=device)
    content, mean, std = torch.tensor([[800, 1067]]), (120.0, 110.0, 100.0), (58.0, 57.0, 56.0)
    plain, mixed = torch.eye(3, 4)[None], torch.tensor([[[1.1, 0.1, 0, 3], [0, 0.9, 0.1, -2], [0, 0, 1, 0]]])
    resize = torch.tensor([[[800 / 480, 0, 0], [0, 800 / 480, 0], [0, 0, 1]]])
    turn = torch.tensor([[[1.6, 0.3, -80], [-0.3, 1.6, 60], [0, 0, 1]]])
    for name, geometry, colour in (("resize", resize, plain), ("resize, colour", resize, mixed), ("turn", turn, plain)):
        for dtype in (torch.float32, torch.bfloat16):
            yield Case(
                f"warp_normalize 640x480 to 1067x800, {name}, {str(dtype)[6:]}",
                lambda g=geometry, c=colour, d=dtype: ops.warp_normalize(
                    [image], g, c, (800, 1088), content_sizes=content, mean=mean, std=std, dtype=d
                ),
                lambda g=geometry, c=colour, d=dtype: warp_normalize_reference(
                    [image], g, c, (800, 1088), content, mean, std, d
                ),
                0.1 if device == "cuda" else 1.0,
            )


def milliseconds(call: Call, device: str) -> float:
    started = time.perf_counter()
    call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) * 1e3


def measure(case: Case, device: str, budget_seconds: float) -> dict[str, object]:
    times: tuple[list[float], list[float]] = ([], [])
    calls = (case.ours, case.theirs)
    for call in calls:
        milliseconds(call, device)
    stop = time.perf_counter() + budget_seconds
    while len(times[0]) < 3 or (time.perf_counter() < stop and len(times[0]) < 100):
        for call, own in zip(calls, times, strict=True):
            own.append(milliseconds(call, device))
    ours, theirs = (statistics.median(own) for own in times)
    ratio = theirs / ours
    met = ours <= case.bar if device == "cuda" else ratio >= case.bar
    row = {"case": case.name, "unit": "ms", "ours": ours, "theirs": theirs, "ratio": ratio, "bar": case.bar, "met": met}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    device = arguments.device
    built = "built" if native.serves(device) else "not built: the references are measured against themselves"
    print(f"native operators for {device}: {built}; torch {torch.__version__}, {arguments.threads} threads")
    print(f"{'case':62} {'ours ms':>9} {'theirs ms':>10} {'ratio':>7} {'bar':>6}")
    rows = []
    for cases in (roi_cases, nms_cases, rotated_cases, matching_cases, mask_cases, warp_cases):
        for case in cases(device):
            if arguments.case not in case.name:
                continue
            row = measure(case, device, arguments.seconds)
            rows.append(row)
            print(
                f"{row['case']:62} {row['ours']:9.3f} {row['theirs']:10.3f} {row['ratio']:7.2f} {row['bar']:6.2f}"
                f"{'' if row['met'] else '  missed'}",
                flush=True,
            )
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
