"""A worker's words on the driver's terminal, whatever machine the worker is on.

Ray's own forwarding prefixes, reorders and drops lines, which tears a progress bar. Here rank 0 appends what it prints
to a small file in the run's folder, and the driver moves it on to its terminal, bytes unchanged; the file never grows.
"""

import fcntl
import io
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

FILE_NAME = ".console"


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """What a worker must know of the driver's terminal to draw for it."""

    is_terminal: bool
    columns: int

    @classmethod
    def of_this_process(cls) -> Self:
        return cls(is_terminal=sys.stdout.isatty(), columns=shutil.get_terminal_size().columns)


class _Outlet(io.TextIOBase):
    """A text stream that appends to the file."""

    encoding = "utf-8"

    def __init__(self, path: Path, *, is_terminal: bool) -> None:
        self._file = path.open("ab", buffering=0)
        self._is_terminal = is_terminal

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str, /) -> int:
        with _locked(self._file):
            self._file.write(text.encode("utf-8", "replace"))
        return len(text)


@contextmanager
def speaking_to(path: Path, terminal: Terminal) -> Iterator[None]:
    """In a worker: inside, all that Python prints and all that detcore logs goes to the driver."""
    os.environ["COLUMNS"] = str(terminal.columns)
    outlet = _Outlet(path, is_terminal=terminal.is_terminal)
    handler = logging.StreamHandler(outlet)
    logger = logging.getLogger("detcore")
    logger.addHandler(handler)
    try:
        with redirect_stdout(outlet), redirect_stderr(outlet):
            yield
    finally:
        logger.removeHandler(handler)


def say_to(path: Path, line: str) -> None:
    """In any other process that shares the folder: one line for the driver."""
    with path.open("ab", buffering=0) as file, _locked(file):
        file.write(f"{line}\n".encode("utf-8", "replace"))


class Relay:
    """In the driver: moves what has been said since the last time to the present standard output. A context manager."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._target = sys.stdout
        self._file = path.open("w+b", buffering=0)

    def move(self) -> str:
        """What had been said."""
        with _locked(self._file):
            self._file.seek(0)
            said = self._file.read()
            self._file.truncate(0)
        text = said.decode("utf-8", "replace")
        if text:
            self._target.write(text)
            self._target.flush()
        return text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.move()
        self._file.close()
        self._path.unlink(missing_ok=True)


@contextmanager
def _locked(file: io.FileIO) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
