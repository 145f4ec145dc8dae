"""Training images whose bytes turn out to be damaged, left out by name and number."""

import sys
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from detcore.data.batching import Row
from detcore.data.buckets import Shape
from detcore.data.row_reading import Drawn, ReadsRows, SampleError
from detcore.data.shards import DamagedSample


class SkipDamaged:
    """Reads rows, and gives None for one that cannot be made because bytes are damaged. For any thread.

    Each such sample is said once, on stderr. A row that mixes it with others is left out too. Whether one is left out
    follows from the bytes alone, so a resumed training leaves out the same.

    Args:
        reader: what reads the rows.
        num_samples: that take part.
        max_fraction: of those; when more are damaged, this is no accident and an error.
    """

    def __init__(self, reader: ReadsRows, *, num_samples: int, max_fraction: float) -> None:
        self._reader = reader
        self._num_samples = num_samples
        self._max_fraction = max_fraction
        self._damaged: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, drawn: Sequence[Drawn], *, epoch: int, shape: Shape, mixes: bool = True) -> list[Row | None]:
        """As the reader's.

        Raises:
            ValueError: as the reader's where nothing is damaged, or too many samples are.
        """
        try:
            return self._reader(drawn, epoch=epoch, shape=shape, mixes=mixes)
        except SampleError as error:
            if not _is_damage(error):
                raise
            if len(drawn) > 1:  # one by one, to find which it is
                return [row for of in drawn for row in self([of], epoch=epoch, shape=shape, mixes=mixes)]
            self._note(error)
            return [None]

    def num_bytes(self, samples: NDArray[np.int64]) -> int:
        """As the reader's."""
        return self._reader.num_bytes(samples)

    def _note(self, error: SampleError) -> None:
        with self._lock:
            if error.sample not in self._damaged:
                self._damaged.add(error.sample)
                print(f"left out: {error}", file=sys.stderr, flush=True)
            if len(self._damaged) > self._max_fraction * self._num_samples:
                raise ValueError(
                    f"{len(self._damaged)} of {self._num_samples} training samples are damaged, more than"
                    f" data.max_corrupt_fraction = {self._max_fraction:g}; the last: {error}"
                ) from error


def _is_damage(error: BaseException) -> bool:
    """Whether bytes are at fault: by their checksum or, where shards have none, by the decoder's word."""
    cause = error.__cause__
    if isinstance(error, (DamagedSample, UnidentifiedImageError)) or (type(error) is OSError and error.errno is None):
        return True
    return cause is not None and _is_damage(cause)
