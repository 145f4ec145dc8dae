"""Many images through one loader: memory stays flat, and nothing is left open."""

import gc
import os
import statistics
from dataclasses import dataclass

import psutil
import torch

from data_cases.loading import loader
from detcore.config import DataConfig
from detcore.data import ShardedSplit

_SAMPLES = 40


@dataclass(frozen=True)
class Soaked:
    """What was seen.

    Attributes:
        images: handed out.
        drift_percent: of the resident memory's median in the last quarter from that in the second one.
        files_left: open after the loader and the split were closed, beyond those before.
    """

    images: int
    drift_percent: float
    files_left: int


def soak(folder_split: ShardedSplit, config: DataConfig, *, images: int, device: str) -> Soaked:
    """Closes the split."""
    process = psutil.Process()
    folder_split.close()
    files = len(os.listdir("/proc/self/fd"))
    resident, done = [], 0
    with loader(folder_split, config, device=device, dtype=torch.float32) as source:
        while done < images:
            done += int(next(source).real.sum())
            if done >= images * (len(resident) + 1) / _SAMPLES:
                resident.append(process.memory_info().rss)
    folder_split.close()
    gc.collect()
    early, late = (statistics.median(part) for part in (resident[_SAMPLES // 4 : _SAMPLES // 2], resident[-10:]))
    return Soaked(done, 100 * (late / early - 1), len(os.listdir("/proc/self/fd")) - files)
