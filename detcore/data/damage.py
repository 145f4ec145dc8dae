"""Training images whose bytes turn out to be damaged, left out by name and number."""

import sys
import threading
from typing import Protocol

from PIL import UnidentifiedImageError

from detcore.data.batching import Row
from detcore.data.buckets import Shape
from detcore.data.row_reading import SampleError
from detcore.data.shards import DamagedSample


class ReadsRows(Protocol):
    """What gives a sample's row; for any thread."""

    def __call__(
        self, *, epoch: int, sample: int, choice: int, shape: Shape, repeat: int = 0, mixes: bool = True
    ) -> Row | None: ...


class SkipDamaged:
    """Reads rows, and gives None for one that cannot be made because bytes are damaged. For any thread.

    Each such sample is said once, on stderr. A row that mixes it with others is left out too. Whether one is left out
    follows from the bytes alone, so a resumed training leaves out the same.

    Args:
        reader: what reads the rows.
        num_samples: of the split.
        max_fraction: of the split's samples; when more are damaged, this is no accident and an error.
    """

    def __init__(self, reader: ReadsRows, *, num_samples: int, max_fraction: float) -> None:
        self._reader = reader
        self._num_samples = num_samples
        self._max_fraction = max_fraction
        self._damaged: set[int] = set()
        self._lock = threading.Lock()

    def __call__(
        self, *, epoch: int, sample: int, choice: int, shape: Shape, repeat: int = 0, mixes: bool = True
    ) -> Row | None:
        """As the reader's.

        Raises:
            ValueError: as the reader's where nothing is damaged, or too many samples are.
        """
        try:
            return self._reader(epoch=epoch, sample=sample, choice=choice, shape=shape, repeat=repeat, mixes=mixes)
        except SampleError as error:
            if not _is_damage(error):
                raise
            self._note(error)
            return None

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
