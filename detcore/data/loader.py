"""The loader: threads that read, decode, warp and copy batches ahead of the step that uses them.

The order of batches and every byte in them follow from split, seed and position, never from threads or timing.
"""

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Self

import torch

from detcore.config.data import DataConfig
from detcore.data.augmentation.objects import Limits
from detcore.data.batching import Capacity
from detcore.data.buckets import Shape
from detcore.data.cuda_decoding import cuda_decoder
from detcore.data.making import Making
from detcore.data.rendering import Renderer
from detcore.data.row_reading import Drawn, RowReader
from detcore.data.sample import SampleTransform
from detcore.data.sampler import Sampler
from detcore.data.sampling import sampling_factors
from detcore.data.shards import ShardedSplit
from detcore.data.threads import own_cores, start_threads
from detcore.structures.batch import Batch

# Batches in the making beside the one that is waited for, unless the threads need more to have work.
_PREFETCH = 3
# Rows that a thread reads at once: see `RowReader`. Fewer where a batch has fewer.
_TOGETHER = (4, 8)

_STATE_KEYS = ("seed", "batch_size", "position", "epoch", "batch")


@dataclass(frozen=True)
class _Pending:
    """A batch in the making, its place in its epoch, and its memory."""

    epoch: int
    batch: int
    last: bool
    num_bytes: int
    making: Making


def build_loader(
    split: ShardedSplit,
    config: DataConfig,
    *,
    train: bool,
    batch_size: int,
    seed: int,
    image_mean: Sequence[float],
    image_std: Sequence[float],
    device: torch.device | str,
    rank: int = 0,
    world_size: int = 1,
    dtype: torch.dtype = torch.float32,
    size_divisor: int | None = None,
    transform: SampleTransform | None = None,
    mixed_batches: int | None = None,
) -> "Loader":
    """Batches of a split for one rank.

    Args:
        split: prepared data.
        config: gives the transforms, the buckets and the number of threads.
        train: True: endless, shuffled, `train_transforms`, `sampling`. False: a pass over all samples,
            `test_transforms`.
        batch_size: rows of one forward pass over all ranks; this rank gets every `world_size`-th part of them.
        seed: of the order and of all that is drawn.
        image_mean, image_std: R, G, B on the 0..255 scale.
        device: where the batches go. On CUDA, bytes are copied and warped on a stream of the loader's own.
        rank, world_size: this process among those that train.
        dtype: of the pixels.
        size_divisor: what the model needs heights and widths to be multiples of, besides `config.size_divisor`.
        transform: your own augmentation, before all others, called from several threads. It may change the image's
            size; it may not return more objects than the split's fullest image has.
        mixed_batches: so many of a training's first batches have mixed images; None means all.

    Raises:
        ValueError: a batch size that does not divide evenly over the ranks, or an empty split.
    """
    if batch_size < 1 or batch_size % world_size:
        raise ValueError(f"a batch of {batch_size} images does not divide evenly over {world_size} ranks")
    transforms = config.train_transforms if train else config.test_transforms
    capacity = Capacity.of(split, transforms)
    sampler = Sampler(
        heights=split.heights,
        widths=split.widths,
        transforms=transforms,
        batch_size=batch_size,
        num_buckets=config.num_buckets,
        size_divisor=math.lcm(config.size_divisor, size_divisor or 1),
        seed=seed,
        shuffle=train,
        factors=sampling_factors(split, config.sampling) if train else None,
    )
    renderer = Renderer(
        device=torch.device(device),
        mean=tuple(image_mean),
        std=tuple(image_std),
        dtype=dtype,
        capacity=capacity,
        seed=seed,
    )
    reader = RowReader(
        split=split,
        transforms=transforms,
        capacity=capacity,
        seed=seed,
        limits=Limits(min_size=config.min_box_size, min_visible=config.min_visible),
        transform=transform,
        pinned=renderer.stream is not None,
        on_gpu=cuda_decoder(renderer.stream) if config.decode == "cuda" else None,
    )
    per_rank = batch_size // world_size
    return Loader(
        sampler=sampler,
        reader=reader,
        renderer=renderer,
        rows=slice(rank * per_rank, (rank + 1) * per_rank),
        endless=train,
        num_threads=config.threads or own_cores(),
        prefetch_bytes=config.prefetch_bytes,
        mixed_batches=mixed_batches,
    )


class Loader(Iterator[Batch]):
    """Batches in order; made by `build_loader`.

    For training an endless iterator. For evaluation `for batch in loader` is one pass and may be repeated.

    Attributes:
        position: batches handed out so far, which is also the step in their `rng_key`.
        wait_seconds: how long the last batch was waited for.
    """

    def __init__(
        self,
        *,
        sampler: Sampler,
        reader: RowReader,
        renderer: Renderer,
        rows: slice,
        endless: bool,
        num_threads: int,
        prefetch_bytes: int,
        mixed_batches: int | None,
    ) -> None:
        least, most = _TOGETHER
        num_rows = rows.stop - rows.start
        self._together = min(num_rows, max(least, min(most, -(-num_rows // num_threads))))
        self._most_ahead = max(_PREFETCH, -(-num_threads * self._together // num_rows))
        self._prefetch_bytes = prefetch_bytes
        self._sampler = sampler
        self._reader = reader
        self._renderer = renderer
        self._rows = rows
        self._endless = endless
        self._num_threads = num_threads
        self._mixed_batches = math.inf if mixed_batches is None else mixed_batches
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False
        self._pending: deque[_Pending] = deque()
        self.wait_seconds = 0.0
        self._seek(position=0, epoch=0, batch=0)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of the current epoch; with several sizes to draw, the number can differ by a few between epochs."""
        return len(self._sampler.epoch(self._epoch))

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
        return batch

    def state_dict(self) -> dict[str, int]:
        """Where the next batch stands; what was only fetched ahead does not count."""
        values = (self._sampler.seed, self._sampler.batch_size, self.position, self._epoch, self._batch)
        return dict(zip(_STATE_KEYS, values, strict=True))

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continues where `state` was taken, byte for byte; on any number of ranks.

        Raises:
            ValueError: another seed, or, within an epoch, another batch size.
        """
        if state.keys() != set(_STATE_KEYS):
            raise ValueError(f"loader state has the keys {sorted(state)}, expected {sorted(_STATE_KEYS)}")
        if state["seed"] != self._sampler.seed:
            raise ValueError(f"loader state is of seed {state['seed']}, this run has seed {self._sampler.seed}")
        if state["batch"] and state["batch_size"] != self._sampler.batch_size:
            raise ValueError(
                f"loader state is within an epoch of batches of {state['batch_size']}, this run has batches of "
                f"{self._sampler.batch_size}; the batch size can change only between epochs"
            )
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
        if self._closed:
            raise RuntimeError("the loader is closed")
        if self._executor is None:
            self._executor = start_threads(self._num_threads)
        while self._upcoming is not None and self._has_room(*self._upcoming):
            self._pending.append(self._submit(self._executor, *self._upcoming))
            self._upcoming = next(self._planned, None)

    def _has_room(self, epoch: int, batch: int) -> bool:
        """Whether a batch may be begun: always the one that is waited for, others as far as memory goes."""
        ahead = sum(pending.num_bytes for pending in islice(self._pending, 1, None)) + self._num_bytes(epoch, batch)
        return not self._pending or (len(self._pending) <= self._most_ahead and ahead <= self._prefetch_bytes)

    def _num_bytes(self, epoch: int, batch: int) -> int:
        """Of a batch's pixels and of the images that they come from, where nothing is mixed."""
        plan = self._sampler.epoch(epoch)
        samples = plan.samples[batch, self._rows]
        height, width = self._sampler.buckets[plan.buckets[batch]]
        pixels: int = len(samples) * height * width * self._renderer.bytes_per_pixel
        return pixels + self._reader.num_bytes(samples[samples >= 0])

    def _submit(self, executor: ThreadPoolExecutor, epoch: int, batch: int) -> _Pending:
        plan = self._sampler.epoch(epoch)
        shape = self._sampler.buckets[plan.buckets[batch]]
        read = partial(self._reader, shape=shape, mixes=self._next_step < self._mixed_batches)
        columns = (of[batch, self._rows].tolist() for of in (plan.samples, plan.choices, plan.repeats))
        drawn = [Drawn(*row) for row in zip(*columns, strict=True)]
        parts = [
            partial(read, drawn[first : first + self._together], epoch=epoch)
            for first in range(0, len(drawn), self._together)
        ]
        making = Making(executor, parts, render=partial(self._renderer.render, shape=shape, step=self._next_step))
        self._next_step += 1
        return _Pending(epoch, batch, batch + 1 == len(plan), self._num_bytes(epoch, batch), making)
