"""Builds the loader of a split from the configuration."""

from collections.abc import Sequence

import torch

from detcore.config.data import DataConfig
from detcore.data.augmentation.objects import Limits
from detcore.data.batching import Capacity
from detcore.data.cuda_decoding import cuda_decoder
from detcore.data.damage import SkipDamaged
from detcore.data.loader import Loader
from detcore.data.rendering import Renderer
from detcore.data.row_reading import ReadsRows, RowReader
from detcore.data.sample import SampleTransform
from detcore.data.sampling import build_sampler
from detcore.data.shards import ShardedSplit
from detcore.data.threads import own_cores


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
) -> Loader:
    """Batches of a split for one rank.

    Args:
        split: prepared data.
        config: gives the transforms, the buckets and the number of threads.
        train: True: endless, shuffled, `train_transforms`, `sampling`, of the images that `min_objects`,
            `min_keypoints` and `train_subset` leave. False: a pass over all samples, `test_transforms`.
        batch_size: rows of one forward pass over all ranks; this rank gets one part of `world_size`. Parts are equal:
            where they do not divide, the last have rows that are empty.
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
        ValueError: fewer rows than ranks, or an empty split.
    """
    if batch_size < world_size:
        raise ValueError(f"a batch of {batch_size} images is too small for {world_size} ranks")
    transforms = config.train_transforms if train else config.test_transforms
    capacity = Capacity.of(split, transforms)
    selection, sampler = build_sampler(
        split, config, train=train, batch_size=batch_size, seed=seed, size_divisor=size_divisor or 1
    )
    renderer = Renderer(
        device=torch.device(device),
        mean=tuple(image_mean),
        std=tuple(image_std),
        dtype=dtype,
        capacity=capacity,
        seed=seed,
    )
    reader: ReadsRows = RowReader(
        split=split,
        samples=selection.samples,
        transforms=transforms,
        capacity=capacity,
        seed=seed,
        limits=Limits(min_size=config.min_box_size, min_visible=config.min_visible),
        transform=transform,
        stream=renderer.stream,
        on_gpu=cuda_decoder(renderer.stream) if config.decode == "cuda" else None,
    )
    if train and config.on_bad_sample == "skip":
        num_samples = len(selection.samples)
        reader = SkipDamaged(reader, num_samples=num_samples, max_fraction=config.max_corrupt_fraction)
    per_rank = -(-batch_size // world_size)
    split.prefetch()
    return Loader(
        sampler=sampler,
        reader=reader,
        renderer=renderer,
        rows=slice(rank * per_rank, (rank + 1) * per_rank),
        endless=train,
        num_threads=config.threads or own_cores(),
        prefetch_bytes=config.prefetch_bytes,
        selection=selection,
        mixed_batches=mixed_batches,
    )
