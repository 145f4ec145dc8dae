"""Single requests, worked on together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batcher(Generic[T, R]):
    """Gathers what is asked for singly and has it worked on together, one batch after the other.

    What arrives while a batch is worked on is the next batch; only the first item after a pause waits for company.
    `ray.serve.batch` closes a batch when its time is up even if the one before is still worked on, so that a busy model
    gets many small ones. Belongs to one event loop.

    Args:
        work: from a batch to as many results, in its order; an exception among them is raised to whom it belongs.
        max_size: of a batch.
        max_wait_seconds: how long the first item waits for a second.
        on_batch: told the size of each.
    """

    def __init__(
        self,
        work: Callable[[list[T]], Awaitable[Sequence[R | Exception]]],
        *,
        max_size: int,
        max_wait_seconds: float,
        on_batch: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._work = work
        self._max_size = max_size
        self._max_wait_seconds = max_wait_seconds
        self._on_batch = on_batch
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._full = asyncio.Event()

    async def __call__(self, item: T) -> R:
        """The item's result. Whoever is cancelled before the batch begins costs nothing."""
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if len(self._waiting) >= self._max_size:
            self._full.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        """Works until nothing waits."""
        if len(self._waiting) < self._max_size and self._max_wait_seconds:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._full.wait(), self._max_wait_seconds)
        while batch := self._next():
            self._on_batch(len(batch))
            results: Sequence[R | Exception]
            try:
                results = await self._work([item for item, _ in batch])
            except Exception as error:
                results = [error] * len(batch)
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():  # given up meanwhile
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
            await asyncio.sleep(0)  # who has an answer may ask again and be in the next batch

    def _next(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._max_size:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        if len(self._waiting) < self._max_size:
            self._full.clear()
        return batch
