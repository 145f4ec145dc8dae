"""The loader's batches: wholly made on the CPU, made for a GPU that warps, and the share of Python in them."""

import time
from typing import Any

import torch

from data_cases.clock import Work
from data_cases.corpus import MEAN, STD
from detcore.config import DataConfig
from detcore.data import ShardedSplit, build_loader
from detcore.data.decoding import decode
from detcore.data.loader import Loader
from detcore.data.row_reading import Drawn
from detcore.structures.batch import Batch

BATCH = 8


def loader(
    split: ShardedSplit, config: DataConfig, *, device: str, dtype: torch.dtype, batch_size: int = BATCH
) -> Loader:
    return build_loader(
        split,
        config,
        train=True,
        batch_size=batch_size,
        seed=0,
        image_mean=MEAN,
        image_std=STD,
        device=device,
        dtype=dtype,
    )


def batches(source: Loader, *, images: int) -> Work:
    """So many images and a batch, ready on their device. What is in the making ahead of them gets made, too."""

    def work() -> int:
        done = 0
        while done < images:
            done += int(next(source).real.sum())
        for pending in source._pending:
            pending.making.result()
        return done

    return work


def without_warp(source: Loader) -> Loader:
    """A loader of the CPU that does what one for a GPU leaves to the CPU, but for starting copies and kernels."""

    def unchanged(onto: Batch, *_: Any) -> Batch:
        return onto

    source._renderer._with_pixels = unchanged  # type: ignore[method-assign]
    return source


def python_milliseconds(source: Loader, split: ShardedSplit, *, images: int) -> float:
    """Of processor time an image, beside reading and decoding: drawing, objects, and their way into a batch."""
    plan, renderer = source._sampler.epoch(0), without_warp(source)._renderer
    whole, decoding, done = 0.0, 0.0, 0
    for number in range(-(-images // BATCH)):
        columns = (of[number].tolist() for of in (plan.samples, plan.choices, plan.repeats))
        drawn = [Drawn(*row) for row in zip(*columns, strict=True)]
        samples = [sample for sample, _, _ in drawn if sample >= 0]
        shape = source.buckets[plan.buckets[number]]
        times = [time.thread_time()]
        for sample in samples:
            decode(split.read(sample))
        times.append(time.thread_time())
        rows = source._reader(drawn, epoch=0, shape=shape)
        renderer.render(rows, shape=shape, step=number)
        times.append(time.thread_time())
        decoding, whole, done = decoding + times[1] - times[0], whole + times[2] - times[1], done + len(samples)
    return 1e3 * (whole - decoding) / done
