"""When to leave early: a signal to this process, or the worker's own reason, made known to all ranks."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Literal, Self, cast

import torch.distributed as dist

from detcore.engine.collective import largest_over_ranks, world_size
from detcore.engine.worker import Worker

StopReason = Literal["SIGINT", "SIGTERM", "requested"]

_REQUESTED = 1
_NAMES: dict[int, StopReason] = {_REQUESTED: "requested", signal.SIGINT: "SIGINT", signal.SIGTERM: "SIGTERM"}
_NCCL_STEPS = 10
"""Over NCCL the flag costs a host synchronisation, so it is exchanged once in so many steps."""


class StopRequest:
    """A context in which the first SIGINT or SIGTERM asks the training to checkpoint and leave; a second exits at once.

    Handlers need the main thread. In another (Ray runs training functions in one) only the worker is asked.
    """

    def __init__(self, worker: Worker) -> None:
        self._signal = 0
        self._agreed: StopReason | None = None
        self._handlers: dict[int, Any] = {}
        self._reasons: list[Callable[[], bool]] = [worker.stop_requested]

    def watch(self, reason: Callable[[], bool]) -> None:
        """From now on this rank stops, and with it all, where `reason` holds, too."""
        self._reasons.append(reason)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    @property
    def reason(self) -> StopReason | None:
        """What was last agreed."""
        return self._agreed

    def agreed(self, step: int | None = None) -> StopReason | None:
        """Why all ranks stop now, or None. Every rank must ask, and at the same steps; once set it stays.

        Args:
            step: None where the host waits for the device anyhow, as in an evaluation.
        """
        if self._agreed is None:
            skipped = step is not None and step % _NCCL_STEPS and world_size() > 1 and dist.get_backend() == "nccl"
            mine = self._signal or (_REQUESTED if any(reason() for reason in self._reasons) else 0)
            code = 0 if skipped else largest_over_ranks(mine)
            self._agreed = _NAMES.get(code)
        return self._agreed

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # Written past Python's buffers, which a signal may find locked.
        if self._signal:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # the progress bar hides the cursor
            os._exit(128 + number)
        self._signal = number
        name = cast(str, _NAMES[number])
        os.write(2, f"\n{name}: finishing the step, then a checkpoint; once more to exit at once\n".encode())
