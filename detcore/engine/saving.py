"""Checkpoints written beside the training: the step waits for a copy of its state in memory, a thread does the rest."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from detcore.engine.checkpoint import Checkpoint


class HostCopy:
    """Memory of the host for one copy of a training's state, used again for each: new memory costs more than the copy.

    That of CUDA tensors is pinned. They are copied behind the work that is queued already, and before what comes after
    it; nobody waits for the device until `wait`.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []
        self._copied: torch.cuda.Event | None = None

    def of(self, checkpoint: Checkpoint) -> Checkpoint:
        """The same, safe from what the training does next. The copy before is overwritten."""
        buffers = iter(self._buffers)
        self._buffers, device = [], None

        def copied(tensor: Tensor) -> Tensor:
            nonlocal device
            if tensor.is_cuda:
                device = tensor.device
            buffer = _fitting(next(buffers, None), tensor)
            self._buffers.append(buffer)
            return buffer.copy_(tensor.detach(), non_blocking=tensor.is_cuda)

        copy = replace(
            checkpoint,
            weights=_with_tensors(copied, dict(checkpoint.weights)),
            average=None if checkpoint.average is None else _with_tensors(copied, dict(checkpoint.average)),
            tensors=_with_tensors(copied, dict(checkpoint.tensors)),
        )
        self._copied = None if device is None else torch.cuda.current_stream(device).record_event()
        return copy

    def wait(self) -> None:
        """Until the copy is whole; from any thread."""
        if self._copied is not None:
            self._copied.synchronize()


class CheckpointWriter:
    """Hands checkpoints to `write`, one at a time and in their order.

    Args:
        write: puts a checkpoint on disk.
        background: in a thread of its own, while the training goes on; otherwise the training waits.
    """

    def __init__(self, write: Callable[[Checkpoint], object], *, background: bool) -> None:
        self._write = write
        self._copy = HostCopy() if background else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="detcore-checkpoint")
        self._writing: Future[object] | None = None

    def save(self, checkpoint: Checkpoint, *, wait: bool) -> None:
        """Saves a checkpoint as soon as the one before it is on disk, for which it waits.

        Args:
            checkpoint: its tensors may change once this returns.
            wait: until this one is on disk, too.

        Raises:
            CheckpointError: this one, if it is waited for, or the one before could not be written.
        """
        self.wait()
        if wait or self._copy is None:
            self._write(checkpoint)
        else:
            self._writing = self._thread.submit(self._write_copied, self._copy, self._copy.of(checkpoint))

    def failed(self) -> bool:
        """Whether a checkpoint could not be written, which the next `save` or `wait` raises."""
        return self._writing is not None and self._writing.done() and self._writing.exception() is not None

    def wait(self) -> None:
        """Until all is on disk.

        Raises:
            CheckpointError: if the last could not be written; once.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> BaseException | None:
        """Waits, and ends the thread. What could not be written is given back: something else may be being raised."""
        self._thread.shutdown()
        return None if self._writing is None else self._writing.exception()

    def _write_copied(self, copy: HostCopy, checkpoint: Checkpoint) -> None:
        copy.wait()
        self._write(checkpoint)


def _fitting(buffer: Tensor | None, tensor: Tensor) -> Tensor:
    """`buffer`, if it can take a copy of `tensor` as it lies in memory, else a new one."""
    if buffer is not None and (buffer.shape, buffer.dtype, buffer.stride()) == (
        tensor.shape,
        tensor.dtype,
        tensor.stride(),
    ):
        return buffer
    return torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda, requires_grad=False)


def _with_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same dicts, lists and tuples, new, with other tensors in them."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {key: _with_tensors(change, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_with_tensors(change, item) for item in value)
    return value
