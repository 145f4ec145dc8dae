"""Forward and backward as CUDA graphs, one for each shape of batch: the host launches a step as a whole.

A step of a detector is one to three thousand kernels; where the host launches them one by one, the GPU waits for it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detcore.engine.collective import world_size
from detcore.engine.passes import PlainPasses, flat_gradients
from detcore.structures.batch import Batch

_WARM_UP = 3
"""Passes before a capture: lazy compilation, cuDNN's choice of algorithms and workspaces must be over by then."""


@dataclass(frozen=True)
class _Captured:
    """A graph, and where it reads and writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    names: tuple[str, ...]
    losses: Tensor


class CapturedPasses:
    """`PlainPasses` of which each shape of batch is captured once and then replayed.

    The graphs share one pool of memory: they run one after another, and nothing outlives a replay but the gradients,
    which lie outside, and the losses. Ranks take the mean of all gradients together, after the last pass.

    Args:
        plain: not in DistributedDataParallel; without host synchronisation, and with every tensor's shape known from
            the batch's alone.
        model: whose gradients and buffers the passes change.
        shapes: heights and widths that the batches will have, by falling area: all are captured at the first pass. Of
            others, each is captured when it comes first.
        half_exchange: gradients travel between ranks as bfloat16.
        say: takes a line that tells how long it took.
    """

    def __init__(
        self,
        plain: PlainPasses,
        model: nn.Module,
        *,
        shapes: Sequence[tuple[int, int]],
        half_exchange: bool,
        say: Callable[[str], None],
    ) -> None:
        self._plain, self._model, self._shapes, self._say = plain, model, tuple(shapes), say
        self._half_exchange = half_exchange
        self._graphs: dict[tuple[torch.Size, ...], _Captured] = {}
        self._gradients: Tensor | None = None
        self._pool = torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.scaler = plain.scaler

    def clear(self) -> None:
        if self._gradients is not None:
            self._gradients.zero_()

    def __call__(self, batch: Batch, *, last: bool) -> dict[str, Tensor]:
        if not self._graphs:
            self._capture_all(batch)
        captured = self._graphs.get(_shapes(batch)) or self._capture(self._warmed_up(batch))
        torch._foreach_copy_(captured.batch.tensors(), batch.tensors(), non_blocking=True)
        captured.graph.replay()
        if last and world_size() > 1:
            self._exchange()
        return dict(zip(captured.names, captured.losses.clone().unbind(), strict=True))

    def _capture_all(self, batch: Batch) -> None:
        started = time.perf_counter()
        warm = [self._warmed_up(_of_shape(batch, shape)) for shape in self._shapes]
        for static in warm:
            self._capture(static)
        if warm:
            seconds = time.perf_counter() - started
            self._say(f"captured the training step for {len(warm)} shapes of batches in {seconds:.0f} s")

    def _warmed_up(self, batch: Batch) -> Batch:
        """A copy of the batch for a graph to read from, after passes that left nothing else behind."""
        static = batch.map(lambda tensor: tensor.clone(memory_format=torch.preserve_format))
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._warm_up(static)
        torch.cuda.current_stream().wait_stream(self._stream)
        return static

    def _capture(self, static: Batch) -> _Captured:
        torch.cuda.empty_cache()  # the graphs have a pool of their own
        graph = torch.cuda.CUDAGraph()
        # Only this thread must keep to what a capture allows: the loader's go on copying and allocating.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            losses = self._plain(static, last=True)
            stacked = torch.stack([loss.double() for loss in losses.values()])
        captured = _Captured(graph, static, tuple(losses), stacked)
        self._graphs[_shapes(static)] = captured
        return captured

    def _warm_up(self, batch: Batch) -> None:
        """Gradients, buffers and random numbers are put back."""
        buffers = [(buffer, buffer.clone()) for buffer in self._model.buffers()]
        gradients = None if self._gradients is None else self._gradients.clone()
        generator = torch.cuda.get_rng_state()
        for _ in range(_WARM_UP):
            self._plain(batch, last=True)
        torch.cuda.set_rng_state(generator)
        for buffer, value in buffers:
            buffer.copy_(value)
        if gradients is None:
            self._gradients = flat_gradients([p for p in self._model.parameters() if p.grad is not None])
        else:
            assert self._gradients is not None
            self._gradients.copy_(gradients)

    def _exchange(self) -> None:
        assert self._gradients is not None
        if not self._half_exchange:
            dist.all_reduce(self._gradients, op=dist.ReduceOp.AVG)
            return
        half = self._gradients.bfloat16()
        dist.all_reduce(half, op=dist.ReduceOp.AVG)
        self._gradients.copy_(half)


def _shapes(batch: Batch) -> tuple[torch.Size, ...]:
    return tuple(tensor.shape for tensor in batch.tensors())


def _of_shape(batch: Batch, shape: tuple[int, int]) -> Batch:
    """The batch in images of another height and width, cut off or padded: something to capture a graph with."""
    height, width = (min(sides) for sides in zip(batch.images.shape[-2:], shape, strict=True))
    images = batch.images.new_zeros((*batch.images.shape[:2], *shape))
    images = images.contiguous(memory_format=torch.channels_last)
    images[..., :height, :width] = batch.images[..., :height, :width]
    sizes = batch.image_sizes.minimum(batch.image_sizes.new_tensor(shape))
    targets = batch.targets
    if targets is not None and targets.semantic is not None:
        semantic = targets.semantic.new_full((len(batch), *shape), 255)
        semantic[:, :height, :width] = targets.semantic[:, :height, :width]
        targets = replace(targets, semantic=semantic)
    return replace(batch, images=images, image_sizes=sizes, targets=targets)
