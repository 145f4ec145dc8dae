"""The loader: threads that read, decode, warp and copy batches ahead of the step that uses them.

The order of batches and every byte in them follow from split, seed and position, never from threads or timing.
"""

import math
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Self

from detcore.data.buckets import Shape
from detcore.data.making import Making
from detcore.data.rendering import Renderer
from detcore.data.row_reading import Drawn, ReadsRows
from detcore.data.sampler import EpochPlan, Sampler, check_continues
from detcore.data.selection import Selection
from detcore.data.threads import start_threads
from detcore.structures.batch import Batch

# Batches in the making beside the one that is waited for, unless the threads need more to have work.
_PREFETCH = 3
# Rows that a thread reads at once, at most: see `RowReader`. Half as many took a tenth off what sixteen threads made.
_TOGETHER = 8


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A batch in the making, its place in its epoch, and its memory."""

    epoch: int
    batch: int
    last: bool
    num_bytes: int
    num_samples: int
    making: Making


class Loader(Iterator[Batch]):
    """Batches in order; made by `build_loader`.

    For training an endless iterator. For evaluation `for batch in loader` is one pass and may be repeated.

    Attributes:
        position: batches handed out so far, which is also the step in their `rng_key`.
        wait_seconds: how long the last batch was waited for.
        skipped: samples of the last batch that were left out because their bytes are damaged.
    """

    def __init__(
        self,
        *,
        sampler: Sampler,
        reader: ReadsRows,
        renderer: Renderer,
        rows: slice,
        endless: bool,
        num_threads: int,
        prefetch_bytes: int,
        selection: Selection,
        mixed_batches: int | None,
    ) -> None:
        num_rows = rows.stop - rows.start
        self._together = min(num_rows, _TOGETHER)
        self._most_ahead = max(_PREFETCH, -(-num_threads * self._together // num_rows))
        self._prefetch_bytes = prefetch_bytes
        self._sampler = sampler
        self._identity = sampler.identity()
        self._reader = reader
        self._renderer = renderer
        self._rows = rows
        self._endless = endless
        self._num_threads = num_threads
        self._selection = selection
        self._mixed_batches = math.inf if mixed_batches is None else mixed_batches
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False
        self._pending: deque[_Pending] = deque()
        self.wait_seconds = 0.0
        self.skipped = 0
        self._seek(position=0, epoch=0, batch=0)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the current epoch; with several sizes to draw, the number can differ by a few between epochs."""
        return len(self._sampler.epoch(self._epoch))

    def __str__(self) -> str:
        return f"{self._selection}; an epoch: {self._sampler.epoch(self._epoch)}"

    @property
    def buckets(self) -> tuple[Shape, ...]:
        """The shapes that batches have."""
        return self._sampler.buckets

    def __iter__(self) -> Self:
        if not self._endless:
            self._seek(position=0, epoch=0, batch=0)
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            ValueError: a sample could not be read (with its name; asked again, the same).
            RuntimeError: the loader is closed.
        """
        started = time.perf_counter()
        self._fill()
        if not self._pending:
            raise StopIteration
        batch = self._renderer.receive(self._pending[0].making.result())
        done = self._pending.popleft()
        self.position += 1
        self._epoch, self._batch = (done.epoch + 1, 0) if done.last else (done.epoch, done.batch + 1)
        self.wait_seconds = time.perf_counter() - started
        self.skipped = done.num_samples - done.making.num_made
        return batch

    def plan(self, epoch: int) -> EpochPlan:
        """The global batches of an epoch."""
        return self._sampler.epoch(epoch)

    def row(self, *, epoch: int, batch: int, row: int) -> Batch:
        """One row of a global batch of an epoch, as iterating would give it to some rank; moves nothing on."""
        return self._renderer.receive(self._make(epoch, batch, slice(row, row + 1)).result())

    def state_dict(self) -> dict[str, int]:
        """Where the next batch stands; what was only fetched ahead does not count."""
        return {**self._identity, "position": self.position, "epoch": self._epoch, "batch": self._batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues where `state` was taken, byte for byte; on any number of ranks.

        Raises:
            ValueError: another seed, or, within an epoch, another batch size or other images, sizes or weights.
        """
        expected = self.state_dict().keys()
        if state.keys() != expected:
            raise ValueError(f"loader state has the keys {sorted(state)}, expected {sorted(expected)}")
        check_continues(state, self._identity, within_epoch=state["batch"] > 0)
        self._seek(position=state["position"], epoch=state["epoch"], batch=state["batch"])

    def close(self) -> None:
        """Stops and joins the threads; twice is harmless."""
        self._closed = True
        self._cancel()
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _seek(self, *, position: int, epoch: int, batch: int) -> None:
        self._cancel()
        self.position, self._epoch, self._batch = position, epoch, batch
        self._planned = self._plan(epoch, batch)
        self._upcoming = next(self._planned, None)
        self._next_step = position

    def _plan(self, epoch: int, first: int) -> Iterator[tuple[int, int]]:
        """(epoch, batch) from a place on."""
        for number in count(epoch) if self._endless else (epoch,):
            yield from ((number, batch) for batch in range(first, len(self._sampler.epoch(number))))
            first = 0

    def _cancel(self) -> None:
        while self._pending:
            self._pending.pop().making.cancel()

    def _fill(self) -> None:
        """Gives the threads work until enough batches are in the making."""
        self._threads()
        while self._upcoming is not None and self._has_room(*self._upcoming):
            self._pending.append(self._begin(*self._upcoming))
            self._next_step += 1
            self._upcoming = next(self._planned, None)

    def _threads(self) -> ThreadPoolExecutor:
        if self._closed:
            raise RuntimeError("the loader is closed")
        if self._executor is None:
            self._executor = start_threads(self._num_threads)
        return self._executor

    def _has_room(self, epoch: int, batch: int) -> bool:
        """Whether a batch may be begun: always the one that is waited for, others as far as memory goes."""
        ahead = sum(pending.num_bytes for pending in islice(self._pending, 1, None)) + self._num_bytes(epoch, batch)
        return not self._pending or (len(self._pending) <= self._most_ahead and ahead <= self._prefetch_bytes)

    def _num_bytes(self, epoch: int, batch: int) -> int:
        """Of a batch's pixels and of the images that they come from, where nothing is mixed."""
        plan = self._sampler.epoch(epoch)
        samples, _, _ = plan.rows(batch, self._rows)
        height, width = self._sampler.buckets[plan.buckets[batch]]
        pixels: int = len(samples) * height * width * self._renderer.bytes_per_pixel
        return pixels + self._reader.num_bytes(samples[samples >= 0])

    def _begin(self, epoch: int, batch: int) -> _Pending:
        plan = self._sampler.epoch(epoch)
        return _Pending(
            epoch=epoch,
            batch=batch,
            last=batch + 1 == len(plan),
            num_bytes=self._num_bytes(epoch, batch),
            num_samples=int((plan.rows(batch, self._rows)[0] >= 0).sum()),
            making=self._make(epoch, batch, self._rows),
        )

    def _make(self, epoch: int, batch: int, of_batch: slice) -> Making:
        """Gives the threads some rows of a batch to make."""
        plan = self._sampler.epoch(epoch)
        shape = self._sampler.buckets[plan.buckets[batch]]
        read = partial(self._reader, shape=shape, mixes=self._next_step < self._mixed_batches)
        columns = (column.tolist() for column in plan.rows(batch, of_batch))
        drawn = [Drawn(*row) for row in zip(*columns, strict=True)]
        parts = [
            partial(read, drawn[first : first + self._together], epoch=epoch)
            for first in range(0, len(drawn), self._together)
        ]
        render = partial(self._renderer.render, shape=shape, step=self._next_step)
        return Making(self._threads(), parts, render=render)
