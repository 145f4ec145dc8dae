"""Puts the parts of a training together, after checking that they fit."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from detcore.config import Config
from detcore.config.training import EngineConfig, kind_of
from detcore.data import Loader, SampleTransform, ShardedSplit, build_loader
from detcore.data.buckets import Shape
from detcore.engine.captured import CapturedPasses
from detcore.engine.checkpoint import CheckpointFolder
from detcore.engine.collective import world_size
from detcore.engine.ema import ParameterAverage
from detcore.engine.evaluate import evaluator_of, ground_truth, predictions
from detcore.engine.fingerprint import fingerprint
from detcore.engine.history import History
from detcore.engine.meter import Meter
from detcore.engine.mirror import Mirror
from detcore.engine.optim import build_optimizer
from detcore.engine.passes import Losses, Passes, PlainPasses
from detcore.engine.precision import Precision
from detcore.engine.publish import class_names, describe, image_statistics
from detcore.engine.rng import seed_all
from detcore.engine.run import Run, say
from detcore.engine.saving import CheckpointWriter
from detcore.engine.schedule import lr_factor
from detcore.engine.step import Training
from detcore.engine.worker import Worker
from detcore.evaluation import GroundTruth


def open_run(
    model: nn.Module, *, config: Config, shards: str | Path, worker: Worker, transform: SampleTransform | None = None
) -> Run:
    """Puts a training together on this rank, resumed where the run's folder holds a checkpoint of the same training.

    Raises:
        ValueError: if model, data and configuration do not fit together.
    """
    engine, device = config.engine, worker.device
    train_split, val_split = (ShardedSplit.open(shards, name, store=config.data.store) for name in ("train", "val"))
    _check(model, config=config, split=val_split, worker=worker)
    truth = ground_truth(val_split)
    _check_evaluation(model, truth, config=config, data=val_split.name)
    seed_all(config.seed, rank=worker.rank)
    made_of = fingerprint(config, model, content_hash=train_split.content_hash, transform=transform)
    precision = Precision(name=engine.precision, device=device)
    model.to(device=device, dtype=precision.dtype)
    model.to(memory_format=torch.channels_last)
    model.train()
    loader = _loaders(model, config=config, worker=worker, precision=precision)
    eval_batch_size = worker.world_size * max(1, engine.eval_batch_size // worker.world_size)
    batches = loader(
        train_split,
        train=True,
        batch_size=engine.batch_size // engine.accumulate,
        transform=transform,
        mixed_batches=(engine.steps - config.data.unmixed_last_steps) * engine.accumulate,
    )
    folder = Path(config.run_dir) if worker.rank == 0 else None
    checkpoints, mirror = _checkpoints(config, fingerprint=made_of, worker=worker)
    run = Run(
        config=config,
        worker=worker,
        train_split=train_split,
        val_split=val_split,
        truth=truth,
        training=build_training(model, config=config, precision=precision, shapes=batches.buckets),
        batches=batches,
        val_batches=loader(val_split, train=False, batch_size=eval_batch_size),
        meter=Meter(
            image_ids=train_split.image_ids,
            images_per_step=engine.batch_size,
            skips_overflow=engine.precision == "fp16",
        ),
        history=History(folder and folder / "history.csv"),
        evaluations=History(folder and folder / "evaluations.csv"),
        checkpoints=checkpoints,
        mirror=mirror,
        writer=CheckpointWriter((mirror or checkpoints).save, background=engine.async_checkpoints),
        description=describe(model, config=config, split=val_split),
        fingerprint=made_of,
    )
    run.resume()
    if worker.rank == 0:
        say(f"training on {batches}")
    return run


def build_training(model: nn.Module, *, config: Config, precision: Precision, shapes: Sequence[Shape]) -> Training:
    """What a step of `model` needs, as the configuration has it.

    Args:
        model: on its device, in training mode.
        shapes: heights and widths that batches will have.
    """
    engine, decay = config.engine, config.engine.ema_decay
    return Training(
        model=model,
        passes=build_passes(model, engine=engine, precision=precision, shapes=shapes),
        optimizer=build_optimizer(model, optim=config.optim),
        average=None if decay is None else ParameterAverage(model, decay=decay),
        precision=precision,
        lr_factor=partial(lr_factor, total_steps=engine.steps, optim=config.optim),
        clip_norm=config.optim.clip_norm,
        accumulate=engine.accumulate,
    )


def build_passes(model: nn.Module, *, engine: EngineConfig, precision: Precision, shapes: Sequence[Shape]) -> Passes:
    """Forward and backward as the engine's settings have them; without a GPU there are no CUDA graphs."""
    plain = partial(PlainPasses, precision=precision, accumulate=engine.accumulate)
    losses: nn.Module = Losses(model)
    half_exchange = engine.gradient_exchange == "bf16"
    if half_exchange and world_size() == 1:
        say("engine.gradient_exchange: one worker exchanges no gradients; they stay as they are")
    if engine.cuda_graphs and precision.device.type == "cuda":
        return CapturedPasses(plain(losses), model, shapes=shapes, half_exchange=half_exchange, say=say)
    if engine.cuda_graphs:
        say(f"engine.cuda_graphs: there are none on {precision.device.type}; every operator is launched by itself")
    if world_size() > 1:
        device_ids = [precision.device] if precision.device.type == "cuda" else None
        losses = DistributedDataParallel(losses, device_ids=device_ids, gradient_as_bucket_view=True, **_OWN_BUFFERS)
        if half_exchange:
            losses.register_comm_hook(None, bf16_compress_hook)
    return plain(losses)


# Each rank keeps its own buffers from step to step; torch 2.14 warns of the older name, which is all that 2.11 has.
_PARAMETERS = inspect.signature(DistributedDataParallel).parameters
_OWN_BUFFERS: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _PARAMETERS else "broadcast_buffers": False
}


def _loaders(model: nn.Module, *, config: Config, worker: Worker, precision: Precision) -> Callable[..., Loader]:
    """Makes this rank's loaders, of images as the model wants them."""
    image_mean, image_std = image_statistics(model)
    return partial(
        build_loader,
        config=config.data,
        seed=config.seed,
        image_mean=image_mean,
        image_std=image_std,
        device=worker.device,
        rank=worker.rank,
        world_size=worker.world_size,
        dtype=precision.image_dtype,
        size_divisor=getattr(model, "size_divisor", None),
    )


def _checkpoints(
    config: Config, *, fingerprint: dict[str, Any], worker: Worker
) -> tuple[CheckpointFolder, Mirror | None]:
    engine, path = config.engine, Path(config.run_dir) / "checkpoints"
    folder = CheckpointFolder(path, keep=engine.keep_checkpoints, keep_every=engine.keep_every, say=say)
    if engine.checkpoint_store is None or worker.rank != 0:
        return folder, None
    place = f"{engine.checkpoint_store}/{config.name}"
    return folder, Mirror(place, config.data.store, fingerprint=fingerprint, folder=folder, say=say)


def _check(model: nn.Module, *, config: Config, split: ShardedSplit, worker: Worker) -> None:
    name, classes = type(model).__name__, len(class_names(model, split))
    for method in ("losses", "detect"):
        if not callable(getattr(model, method, None)):
            raise ValueError(f"{name} has no method {method}(batch): a detector needs losses and detect")
    stated = {"model.num_classes": config.model.num_classes, f"{name}.num_classes": getattr(model, "num_classes", None)}
    for where, count in stated.items():
        if count is not None and count != classes:
            raise ValueError(f"{where} is {count}, but the data {split.name!r} has {classes} classes: make them equal")
    if worker.world_size > 1 and not dist.is_initialized():
        raise ValueError(f"{worker.world_size} workers, but torch.distributed has not been initialised")
    passes = config.engine.batch_size // config.engine.accumulate
    if passes < worker.world_size:
        raise ValueError(
            f"{passes} images a pass (engine.batch_size / accumulate) are too few for {worker.world_size} workers"
        )


def _check_evaluation(model: nn.Module, truth: GroundTruth, *, config: Config, data: str) -> None:
    """Raises now, not hours later, when the first evaluation is due."""
    compared = evaluator_of(model, truth, config.engine.evaluation).kinds
    monitor = config.engine.monitor
    if monitor is None or (kind := kind_of(monitor)) in compared:
        return
    if kind in predictions(model):
        raise ValueError(f"engine.monitor = {monitor} is for {kind}; the data {data!r}: {truth.lacks(kind)}")
    raise ValueError(f"engine.monitor = {monitor} is for {kind}, which {type(model).__name__} does not predict")
