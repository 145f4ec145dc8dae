"""The time of a step's parts, taken without waiting for the device."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch


class Stopwatch:
    """Every moment from the first mark to the last belongs to one part, the innermost.

    On CUDA the device's own clock tells: a part also has the time in which the device waits for the host to launch it.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._marks: list[tuple[Any, str | None]] = []
        self._inside: list[str] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._inside.append(name)
        self._mark()
        try:
            yield
        finally:
            self._inside.pop()
            self._mark()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls are a part."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            with self.part(name):
                return function(*arguments, **keywords)

        return call

    def seconds(self) -> dict[str, float]:
        """Of each part. Waits for the device."""
        if self._cuda:
            torch.cuda.synchronize()
        spent: Counter[str] = Counter()
        for (begin, name), (end, _) in pairwise(self._marks):
            if name is not None:
                spent[name] += begin.elapsed_time(end) / 1e3 if self._cuda else end - begin
        return dict(spent)

    def _mark(self) -> None:
        """From now on time belongs to the innermost part that is open."""
        self._marks.append((self._now(), self._inside[-1] if self._inside else None))

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
