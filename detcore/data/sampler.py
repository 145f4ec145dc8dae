"""Which samples make up each batch of an epoch: exact, shuffled by seed and epoch, and the same on every rank."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from detcore.config.transforms import Transform
from detcore.data.augmentation.sizes import content_sizes, num_size_choices, planned_choices
from detcore.data.buckets import Shape, assign_buckets, choose_buckets, shrunk_to_fit


class Purpose(IntEnum):
    """What a random stream is for; streams of different purposes are independent."""

    ORDER = 0
    SIZES = 1
    AUGMENTATION = 2
    TRANSFORM = 3


def keyed_generator(
    seed: int, epoch: int, purpose: Purpose, index: int = 0, repeat: int = 0, site: int = 0
) -> np.random.Generator:
    """A random stream that is a function of its key alone, not of threads, ranks or earlier draws (Philox4x64-10)."""
    key = np.array([seed % 2**64, epoch << 2 | purpose], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, site, repeat, index]))


@dataclass(frozen=True)
class EpochPlan:
    """The global batches of one epoch.

    Attributes:
        samples: (K, B) int64, indices into the split; -1 where a bucket's last batch is not full.
        choices: (K, B) int64, which of the pipeline's sizes each image gets.
        repeats: (K, B) int64, how often the epoch had the sample before, in no particular order of the batches.
        buckets: (K,) int64, the bucket of each batch.
        padding: pixels of the batches, empty rows' among them, for each pixel of an image, less 1.
    """

    samples: NDArray[np.int64]
    choices: NDArray[np.int64]
    repeats: NDArray[np.int64]
    buckets: NDArray[np.int64]
    padding: float

    def __len__(self) -> int:
        return len(self.samples)

    def __str__(self) -> str:
        shapes = len(np.unique(self.buckets))
        return (
            f"{len(self):,} batches of {self.samples.shape[1]} in {shapes} shapes, {self.empty_rows:,} rows empty,"
            f" {self.padding:.1%} padding"
        )

    def rows(self, batch: int, of_batch: slice) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Samples, choices and repeats of some rows of a batch; rows after its last are empty."""
        samples, choices, repeats = (of[batch, of_batch] for of in (self.samples, self.choices, self.repeats))
        missing = of_batch.stop - of_batch.start - len(samples)
        if missing:
            samples = np.pad(samples, (0, missing), constant_values=-1)
            choices, repeats = (np.pad(column, (0, missing)) for column in (choices, repeats))
        return samples, choices, repeats

    @property
    def empty_rows(self) -> int:
        """How many rows no sample fills, over all ranks."""
        return int((self.samples < 0).sum())


class Sampler:
    """Plans epochs over images of known sizes.

    Every sample occurs once an epoch, or as often as its factor says: by its whole part, and once more with a chance of
    the rest. Batches are global: ranks take their rows of the same batch, so the plan does not depend on how
    many ranks there are. Each image is in the bucket of its own resized size.
    """

    def __init__(
        self,
        *,
        heights: NDArray[np.int32],
        widths: NDArray[np.int32],
        transforms: Sequence[Transform],
        batch_size: int,
        num_buckets: int,
        size_divisor: int,
        seed: int,
        shuffle: bool,
        samples: NDArray[np.int64] | None = None,
        factors: NDArray[np.float64] | None = None,
    ) -> None:
        """Chooses the buckets.

        Args:
            heights, widths: (N,) pixels of the raw images.
            transforms: the pipeline; its resizes decide the sizes.
            batch_size: rows of a global batch.
            num_buckets: at most so many shapes.
            size_divisor: of heights and widths of the shapes.
            seed: of order and sizes.
            shuffle: False goes by bucket and index, the largest first, and always draws the first size.
            samples: (n,) rising indices of the images that take part; None means all.
            factors: (n,) how often an epoch has each of them; None means once.

        Raises:
            ValueError: no images.
        """
        if len(heights) == 0:
            raise ValueError("the split has no samples to make batches of")
        self._samples = np.arange(len(heights)) if samples is None else samples
        self._raw_sizes = np.stack([heights, widths], axis=1)[self._samples].astype(np.int64)
        self._transforms = tuple(transforms)
        self._num_choices = num_size_choices(self._transforms) if shuffle else 1
        self.batch_size = batch_size
        self.seed = seed
        self._shuffle = shuffle
        self._factors = factors
        planned = planned_choices(self._num_choices)
        drawable = [self._content_sizes(np.full(len(self._samples), choice)) for choice in planned.tolist()]
        # A bucket's last batch is half empty on average. An evaluation's shapes must not depend on its batch size.
        spare_rows = (batch_size - 1) * len(planned) // 2 if shuffle else 0
        self.buckets: tuple[Shape, ...] = choose_buckets(
            np.concatenate(drawable), max_buckets=num_buckets, divisor=size_divisor, spare_rows=spare_rows
        )
        self._last: tuple[int, EpochPlan] | None = None

    def identity(self) -> dict[str, int]:
        """What the batches of an epoch depend on: seed, batch size, and 63 bits of SHA-256 of all else."""
        content = hashlib.sha256(repr((self.buckets, self._transforms, self._shuffle)).encode())
        for array in (self._raw_sizes, self._samples, self._factors):
            content.update(b"" if array is None else array.tobytes())
        plan = int.from_bytes(content.digest()[:8], "big") >> 1
        return {"seed": self.seed, "batch_size": self.batch_size, "plan": plan}

    def epoch(self, epoch: int) -> EpochPlan:
        """The batches of an epoch; how many there are can differ by a few between epochs, with the sizes drawn.

        Raises:
            ValueError: the factors left out every sample.
        """
        if self._last is None or self._last[0] != epoch:
            self._last = (epoch, self._plan(epoch))
        return self._last[1]

    def _plan(self, epoch: int) -> EpochPlan:
        copies, repeats = self._copies(epoch)
        if not len(copies):
            raise ValueError(f"epoch {epoch} has no image: the weights of {len(self._samples)} images are too unlike")
        order = np.arange(len(copies))
        choices = np.zeros_like(order)
        if self._shuffle:
            random = keyed_generator(self.seed, epoch, Purpose.ORDER)
            order = random.permutation(order)
            draws = keyed_generator(self.seed, epoch, Purpose.SIZES).random(len(order))
            choices = (draws * self._num_choices).astype(np.int64)
        sizes = shrunk_to_fit(content_sizes(self._raw_sizes[copies], self._transforms, choices), self.buckets)
        bucket_of = assign_buckets(sizes, self.buckets)[order]
        rows, buckets = [], []
        for bucket in range(len(self.buckets)):
            members = order[bucket_of == bucket]
            num_batches = -(-len(members) // self.batch_size)
            padded = np.full(num_batches * self.batch_size, -1)
            padded[: len(members)] = members
            rows.append(padded.reshape(-1, self.batch_size))
            buckets.append(np.full(num_batches, bucket))
        places, batch_buckets = np.concatenate(rows), np.concatenate(buckets)
        if self._shuffle:
            mixed = random.permutation(len(places))
            places, batch_buckets = places[mixed], batch_buckets[mixed]
        real = places >= 0
        pixels = self.batch_size * np.array(self.buckets).prod(axis=1)[batch_buckets].sum()
        return EpochPlan(
            samples=np.where(real, self._samples[copies[places]], -1),
            choices=np.where(real, choices[places], 0),
            repeats=np.where(real, repeats[places], 0),
            buckets=batch_buckets,
            padding=float(pixels / sizes.prod(axis=1).sum() - 1),
        )

    def _copies(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The places among the samples, each as often as it occurs, and which of its occurrences each is."""
        number = len(self._raw_sizes)
        if self._factors is None:
            return np.arange(number), np.zeros(number, np.int64)
        # Its own stream: index 0 of this purpose shuffles.
        draws = keyed_generator(self.seed, epoch, Purpose.ORDER, index=1).random(number)
        whole = np.floor(self._factors)
        counts = (whole + (draws < self._factors - whole)).astype(np.int64)
        starts = np.cumsum(counts) - counts
        return np.repeat(np.arange(number), counts), np.arange(counts.sum()) - np.repeat(starts, counts)

    def _content_sizes(self, choices: NDArray[np.int64]) -> NDArray[np.int64]:
        return content_sizes(self._raw_sizes, self._transforms, choices)


def check_continues(before: Mapping[str, int], now: Mapping[str, int], *, within_epoch: bool) -> None:
    """Whether epochs of one `Sampler.identity` may go on with another.

    Raises:
        ValueError: another seed, or, within an epoch, another batch size or other images, sizes or weights.
    """
    if before["seed"] != now["seed"]:
        raise ValueError(f"loader state is of seed {before['seed']}, this run has seed {now['seed']}")
    if within_epoch and before["batch_size"] != now["batch_size"]:
        raise ValueError(
            f"loader state is within an epoch of batches of {before['batch_size']}, this run has batches of "
            f"{now['batch_size']}; the batch size can change only between epochs"
        )
    if within_epoch and before["plan"] != now["plan"]:
        raise ValueError(
            "loader state is within an epoch of other images, sizes or weights; they can change only between epochs"
        )
