"""Ctrl-C and SIGTERM on the driver of a search: trials save and leave, then Ray Tune ends."""

import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from detcore.launch.lock import until_free
from detcore.launch.stopping import FILE_NAME as STOP_FILE_NAME
from detcore.launch.tuning.record import trial_folder

_LEAVE_SECONDS = 120.0


class Leaving:
    """A context in which the first SIGINT or SIGTERM is noted, and a second one interrupts.

    Ray Tune's own answer to Ctrl-C gives trials 15 seconds, then kills them.

    Attributes:
        wanted: a signal has come, and has not been followed yet.
    """

    def __init__(self, sweep: Path) -> None:
        self._sweep = sweep
        self._handlers: dict[int, Any] = {}
        self._asked = self.wanted = False

    def __enter__(self) -> Self:
        # As in `StopFile`: elsewhere signals are the caller's to handle.
        if threading.current_thread() is threading.main_thread():
            os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
            self._handlers = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def leave(self, numbers: Iterable[int]) -> None:
        """Has these trials save and leave, waits until they have, and tells Ray Tune to end."""
        folders = [trial_folder(self._sweep, number) for number in numbers]
        for folder in folders:
            (folder / STOP_FILE_NAME).touch()
        until = time.monotonic() + _LEAVE_SECONDS
        for folder in folders:
            with suppress(ValueError):  # its last checkpoint stands
                until_free(folder, seconds=until - time.monotonic())
        self.wanted = False
        signal.raise_signal(signal.SIGUSR1)  # what Ray Tune listens to, besides

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self.wanted = self._asked = True
        name = signal.Signals(number).name
        # Written past Python's buffers, which a signal may find locked.
        os.write(2, f"\n{name}: trials finish their step, then save; once more to exit at once\n".encode())
