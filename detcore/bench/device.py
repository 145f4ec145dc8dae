"""What a device can do at best, and what it was asked to do."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch

Work = Callable[[], object]
GIB = 2**30


def device_name(device: torch.device) -> str:
    """'NVIDIA H100 80GB HBM3', or 'CPU, 2 threads'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type.upper()}, {torch.get_num_threads()} threads"


def synchronize(device: torch.device) -> None:
    """Waits until the device has done all."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Work, device: torch.device) -> float:
    """Until the device has done it."""
    synchronize(device)
    started = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - started


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square matrix product, the best of five times ten: what the chip reaches."""
    size = 8192 if device.type == "cuda" else 512
    left, right = (torch.rand((size, size), device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)

    def products() -> None:
        for _ in range(10):
            torch.mm(left, right, out=out)

    products()
    return 10 * 2 * size**3 / min(seconds_of(products, device) for _ in range(5))


def host_syncs(work: Work, device: torch.device) -> int | None:
    """How often the host waited for the device in the midst of it, as torch sees; None on a CPU, which is the host."""
    if device.type != "cuda":
        return None
    synchronize(device)
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def kernels(work: Work, device: torch.device) -> tuple[int, float] | None:
    """How many kernels ran, and their seconds in all; None on a CPU, which has none. Copies and fills do not count."""
    if device.type != "cuda":
        return None
    synchronize(device)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        synchronize(device)
    seconds = [event.device_time / 1e6 for event in profile.events() or () if _is_kernel(event)]
    return len(seconds), sum(seconds)


def captured(work: Work) -> Work:
    """Work on a CUDA device as a graph: replays it where it was captured, on the same tensors."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    torch.clear_autocast_cache()  # type: ignore[no-untyped-call]
    with torch.cuda.graph(graph, stream=stream):
        kept = work()  # what it gives stays in its place as long as the graph
    torch.clear_autocast_cache()  # type: ignore[no-untyped-call]

    def replay(_: object = kept) -> None:
        graph.replay()

    return replay


def peak_memory(device: torch.device) -> tuple[int, int] | None:
    """Bytes at most of tensors, and of what torch had taken for them, since they were last reset; None on a CPU."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)


def _is_kernel(event: Any) -> bool:
    on_device = event.device_type == torch.autograd.DeviceType.CUDA  # type: ignore[attr-defined]
    return (
        on_device
        and not event.name.startswith(("Memcpy", "Memset"))
        and not getattr(event, "is_user_annotation", False)
    )
