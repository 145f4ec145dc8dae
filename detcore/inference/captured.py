"""Detection as CUDA graphs, one for each shape of batch: the host launches a batch's detection as a whole.

At a few images a batch the GPU is done with a kernel sooner than the host has launched the next one.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Self

import torch

from detcore.structures.batch import Batch, Detections

Detect = Callable[[Batch], Detections]

_WARM_UP = 3
"""Calls before a capture: lazy initialisation, cuDNN's choice of algorithms and cached anchors must be over by then."""


class DetectionGraph:
    """A detection captured with one batch, that others of the same shapes can be replayed on.

    Args:
        detect: with shapes that follow from the batch's alone, and without waiting for the device.
        batch: on a CUDA device.
        beside: another graph, whose memory this one uses too: they never run at the same time.

    Raises:
        ValueError: the detection cannot be captured.
    """

    def __init__(self, detect: Detect, batch: Batch, *, beside: Self | None = None) -> None:
        self._batch = batch.map(lambda tensor: tensor.clone(memory_format=torch.preserve_format))
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                detect(self._batch)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        pool = None if beside is None else beside._graph.pool()
        torch.clear_autocast_cache()  # type: ignore[no-untyped-call]  # weights cast before would be gone at a replay
        try:
            with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._detections = detect(self._batch)
        except RuntimeError as error:
            raise ValueError(f"cuda_graphs: this detector cannot be captured: {_first_line(error)}") from error
        finally:
            torch.clear_autocast_cache()  # type: ignore[no-untyped-call]  # weights cast within are the graph's

    def __call__(self, batch: Batch) -> Detections:
        torch._foreach_copy_(self._batch.tensors(), batch.tensors())
        self._graph.replay()
        return self._detections.map(lambda tensor: tensor.clone())


class CapturedDetection:
    """`detect`, captured for each shape of batch when it comes first. Not to be called from several threads at once.

    Args:
        detect: see `DetectionGraph`.
        capacity: graphs that are kept: the last used.
        capture: makes one.
    """

    def __init__(
        self, detect: Detect, *, capacity: int = 16, capture: Callable[..., DetectionGraph] = DetectionGraph
    ) -> None:
        self._detect, self._capacity, self._capture = detect, capacity, capture
        self._graphs: OrderedDict[tuple[object, ...], DetectionGraph] = OrderedDict()  # the last used last

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Detections:
        """What `detect` gives, in tensors of its own."""
        key = tuple((tensor.shape, tensor.dtype) for tensor in batch.tensors())
        if key in self._graphs:
            self._graphs.move_to_end(key)
        else:
            beside = next(iter(self._graphs.values()), None)
            graph = self._capture(self._detect, batch, beside=beside)
            if len(self._graphs) == self._capacity:
                self._graphs.popitem(last=False)
            self._graphs[key] = graph
        return self._graphs[key](batch)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
