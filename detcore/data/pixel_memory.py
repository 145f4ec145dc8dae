"""Memory for batches of pixels on the CPU, used again and again."""

import math
import threading
import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SPARE = 4
"""Blocks that are kept while no batch is in them: more come back only where batches were held for long."""
_ALIGNMENT = 64
"""Bytes; rows that begin so can be written past the caches."""

Block = NDArray[np.uint8]


class PixelMemory:
    """Blocks of memory that come back once nothing refers to the tensors in them. For any thread.

    A batch has a hundred megabytes. Fresh from the system they cost many times what writing the pixels costs, since the
    kernel clears every page when it is first touched.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: list[Block] = []
        self._size = 0  # of the blocks: what the largest batch takes

    def take(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A row-major tensor on the CPU, of any content."""
        needed = math.prod(shape) * dtype.itemsize
        with self._lock:
            if needed > self._size:
                self._size = needed
                self._free.clear()
            block = self._free.pop() if self._free else np.empty(self._size + _ALIGNMENT, np.uint8)
        start = -block.ctypes.data % _ALIGNMENT
        lent = block[start : start + needed]
        # The tensor's storage refers to this view, and whatever shares the storage does.
        weakref.finalize(lent, self._give_back, block).atexit = False
        return torch.from_numpy(lent).view(dtype).view(*shape)

    def _give_back(self, block: Block) -> None:
        with self._lock:
            if block.size == self._size + _ALIGNMENT and len(self._free) < _SPARE:
                self._free.append(block)
