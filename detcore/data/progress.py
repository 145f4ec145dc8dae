"""How far a long piece of work is: a bar on a terminal, else a line every few seconds."""

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")
_LINE_EVERY_SECONDS = 5.0


class Meter:
    """Shows progress on stderr. A context manager; `advance` may be called from several threads.

    Args:
        what: a few words, such as 'bccd train: checking images'.
        total: the whole amount, or None where it is not known.
        shown: False keeps it silent.
    """

    def __init__(self, what: str, *, total: int | None, shown: bool) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._shown = shown
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if shown and sys.stderr.isatty():
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(what, total=total)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, amount: int = 1) -> None:
        self._done += amount
        if self._bar is not None:
            self._bar.advance(self._task, amount)
        elif self._shown and time.monotonic() - self._last_line > _LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            print(f"{self._what}: {self._done:,}{f' of {self._total:,}' if self._total else ''}", file=sys.stderr)


def track(items: Iterable[T], what: str, *, total: int | None, shown: bool) -> Iterator[T]:
    """Gives the items on, one step of progress each."""
    with Meter(what, total=total, shown=shown) as meter:
        for item in items:
            yield item
            meter.advance()
