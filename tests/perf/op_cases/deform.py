"""Deformable convolution and deformable attention."""

from collections.abc import Iterator

import torch
from torch import Tensor

from detcore import ops
from detcore.ops.deform_conv import deform_conv2d_reference
from detcore.ops.ms_deform_attn import ms_deform_attn_reference
from op_cases.case import Call, Case, size_of, with_backward


def deform_cases(device: str) -> Iterator[Case]:
    yield from _convolutions(device)
    yield from _attentions(device)


def _convolutions(device: str) -> Iterator[Case]:
    batch = 8 if device == "cuda" else 1
    x = torch.randn((batch, 256, 50, 84), device=device)
    offset = torch.randn((batch, 18, 50, 84), device=device)
    mask = torch.rand((batch, 9, 50, 84), device=device)
    weight = torch.randn((256, 256, 3, 3), device=device) / 48
    bias = torch.randn(256, device=device)

    def convolve(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        return ops.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)

    def convolve_theirs(x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        return deform_conv2d_reference(x, offset, weight, bias, padding=1, mask=mask)

    plain = (x, offset, weight, bias, mask)
    last = (x.contiguous(memory_format=torch.channels_last), *plain[1:])
    half = (last[0].bfloat16(), offset, weight.bfloat16(), bias.bfloat16(), mask.bfloat16())
    flops = 2.0 * batch * 50 * 84 * 9 * 256 * 256
    for kind, own in (("NCHW fp32", plain), ("NHWC fp32", last), ("NHWC bf16", half)):
        name, out_bytes = f"deform_conv2d ({batch},256,50,84), {kind}", size_of(own[0])
        # On the GPU the bars are those of bf16, which fp32 products cannot reach.
        bars = (1.0, 1.0) if device == "cpu" else (0.3, 2.0) if kind == "NHWC bf16" else (1.28, 8.1)
        yield Case(
            f"{name}, fwd",
            lambda own=own: convolve(*own),
            lambda: convolve_theirs(*plain),
            bars[0],
            size_of(*own) + out_bytes,
            flops,
            matrix=True,
        )
        yield Case(
            f"{name}, fwd+bwd",
            with_backward(convolve, *own),
            with_backward(convolve_theirs, *plain),
            bars[1],
            3 * (size_of(*own) + out_bytes),
            3 * flops,
            matrix=True,
        )


def _attentions(device: str) -> Iterator[Case]:
    shapes = [(100, 134), (50, 67), (25, 34), (13, 17)]
    batch, queries = (2, 10_000) if device == "cuda" else (1, 1000)
    value = torch.randn((batch, sum(h * w for h, w in shapes), 8, 32), device=device)
    locations = torch.rand((batch, queries, 8, 4, 4, 2), device=device)
    weights = torch.rand((batch, queries, 8, 4, 4), device=device).flatten(3).softmax(-1).view(batch, queries, 8, 4, 4)

    def attend(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ops.ms_deform_attn(value, shapes, locations, weights)

    def attend_theirs(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn_reference(value, shapes, locations, weights)

    plain = (value, locations, weights)
    for kind, own in (("fp32", plain), ("bf16", (value.bfloat16(), locations, weights.bfloat16()))):
        name, out_bytes = f"ms_deform_attn {batch} x {queries} queries, {kind}", batch * queries * 256 * own[0].itemsize
        moved = size_of(*own) + out_bytes
        both = with_backward(attend, *own), with_backward(attend_theirs, *plain)
        bars = (20.0, 20.0)
        if device == "cuda":
            mine, other = (_peak_bytes(call) for call in both)
            print(f"{name}, fwd+bwd: peak memory {mine / 2**20:.0f} MB, theirs {other / 2**20:.0f}, at most half of it")
            bars = tuple(_milliseconds(call) / 3 for call in (lambda: attend_theirs(*plain), both[1]))
        yield Case(f"{name}, fwd", lambda own=own: attend(*own), lambda: attend_theirs(*plain), bars[0], moved)
        yield Case(f"{name}, fwd+bwd", *both, bars[1], 2 * moved + out_bytes)


def _peak_bytes(call: Call) -> int:
    """What the call needs on top of what is there before it."""
    call()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _milliseconds(call: Call) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    call()
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)
