"""The loader's batches, on the CPU alone or for a GPU that warps."""

import torch

from data_cases.clock import Work
from data_cases.corpus import MEAN, STD
from detcore.config import DataConfig
from detcore.data import ShardedSplit, build_loader
from detcore.data.loader import Loader

BATCH = 8


def loader(split: ShardedSplit, config: DataConfig, *, device: str, dtype: torch.dtype) -> Loader:
    return build_loader(
        split,
        config,
        train=True,
        batch_size=BATCH,
        seed=0,
        image_mean=MEAN,
        image_std=STD,
        device=device,
        dtype=dtype,
    )


def batches(source: Loader, *, images: int) -> Work:
    """So many images and a batch, ready on their device."""

    def work() -> int:
        done = 0
        while done < images:
            done += int(next(source).real.sum())
        return done

    return work
