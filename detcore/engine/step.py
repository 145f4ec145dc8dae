"""One optimiser step."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from detcore.engine.ema import ParameterAverage
from detcore.engine.meter import StepRecord
from detcore.engine.optim import clip_gradients, set_learning_rate
from detcore.engine.passes import Passes
from detcore.engine.precision import Precision
from detcore.structures.batch import Batch


class Batches(Protocol):
    """An endless source of batches; of its last one it knows how long it was waited for and how much was left out."""

    wait_seconds: float
    skipped: int

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a step works on.

    Attributes:
        model: the user's.
        passes: forward and backward.
        lr_factor: the schedule, by 0-based step.
        clip_norm: global gradient norm, or None.
        accumulate: passes an optimiser step.
    """

    model: nn.Module
    passes: Passes
    optimizer: torch.optim.Optimizer
    average: ParameterAverage | None
    precision: Precision
    lr_factor: Callable[[int], float]
    clip_norm: float | None
    accumulate: int

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has its averaged parameters, where there are any."""
        return nullcontext() if self.average is None else self.average.applied()


def train_step(training: Training, batches: Batches, step: int) -> StepRecord:
    """Forward, backward, update: step `step` (0-based), on the device's queue and without waiting for it."""
    started, wait_seconds, skipped = time.perf_counter(), 0.0, 0
    optimizer, passes = training.optimizer, training.passes
    set_learning_rate(optimizer, training.lr_factor(step))
    passes.clear()
    means: dict[str, Tensor] = {}
    sample_ids = []
    for index in range(training.accumulate):
        batch = next(batches)
        wait_seconds += batches.wait_seconds
        skipped += batches.skipped
        sample_ids.append(batch.sample_ids)
        for name, loss in passes(batch, last=index == training.accumulate - 1).items():
            means[name] = means[name] + loss if name in means else loss
    passes.scaler.unscale_(optimizer)
    grad_norm = clip_gradients(training.model.parameters(), clip_norm=training.clip_norm)
    passes.scaler.step(optimizer)
    passes.scaler.update()
    if training.average is not None:
        training.average.update(step)
    return StepRecord(
        step=step,
        losses=means,
        grad_norm=grad_norm,
        sample_ids=sample_ids,
        lr=max(group["lr"] for group in optimizer.param_groups),
        seconds=time.perf_counter() - started,
        wait_seconds=wait_seconds,
        skipped=skipped,
    )
