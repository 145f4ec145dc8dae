"""Ctrl-C and SIGTERM on the driver of a training whose workers are other processes, perhaps on other machines."""

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

import psutil

FILE_NAME = ".stop"


class StopFile:
    """A context in which the first SIGINT or SIGTERM asks the workers to checkpoint and leave; a second exits at once.

    They look for a file in the run's folder, which they share with the driver anyhow.

    Attributes:
        received: the signal's name, or None.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handlers: dict[int, Any] = {}
        self.received: Literal["SIGINT", "SIGTERM"] | None = None

    def __enter__(self) -> Self:
        self._path.unlink(missing_ok=True)
        # Python allows handlers in the main thread only; elsewhere signals are the caller's to handle.
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._path.unlink(missing_ok=True)

    def ask(self) -> None:
        """The same without a signal."""
        with suppress(OSError):  # of a shared folder that went with its server
            self._path.touch()

    def withdraw(self) -> None:
        """What was asked for is done, and the training goes on."""
        if self.received is None:
            self._path.unlink(missing_ok=True)

    @property
    def asked_for(self) -> bool:
        """Whether the file is there, whoever made it."""
        return self._path.exists()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            # A cluster of our own would leave some of its processes behind.
            for child in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            os._exit(128 + number)
        self.received = "SIGINT" if number == signal.SIGINT else "SIGTERM"
        self._path.touch()
        # Written past Python's buffers, which a signal may find locked.
        os.write(2, f"\n{self.received}: finishing the step, then a checkpoint; once more to exit at once\n".encode())
