"""Calls that a CUDA stream must be able to make without the host."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def assert_runs_unattended(call: Callable[[], tuple[Tensor, ...]]) -> None:
    """The call never makes the host wait for the device, and a graph of it gives the same again."""
    want = [tensor.clone() for tensor in call()]  # a first call may allocate and load
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = call()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call()
    for tensor in captured:
        tensor.zero_()
    graph.replay()
    torch.cuda.synchronize()
    for tensors in (again, captured):
        for got, expected in zip(tensors, want, strict=True):
            assert torch.equal(got, expected)
