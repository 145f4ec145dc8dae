"""One optimiser step."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detcore.engine.ema import ParameterAverage
from detcore.engine.meter import StepRecord
from detcore.engine.optim import clip_gradients, set_learning_rate
from detcore.engine.precision import Precision
from detcore.structures.batch import Batch


class Batches(Protocol):
    """An endless source of batches; of its last one it knows how long it was waited for and how much was left out."""

    wait_seconds: float
    skipped: int

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...


class Losses(nn.Module):
    """A model as a function from batch to losses: what DistributedDataParallel can wrap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The model's losses, by name.

        Raises:
            ValueError: if they are not a dict of 0-dim tensors.
        """
        losses: dict[str, Tensor] = self.model.losses(batch)  # type: ignore[operator]
        if not isinstance(losses, dict) or not losses:
            raise ValueError(f"{type(self.model).__name__}.losses must give a dict of losses, got {losses!r:.80}")
        for name, value in losses.items():
            if not isinstance(value, Tensor) or value.ndim:
                raise ValueError(
                    f"{type(self.model).__name__}.losses: {name!r} must be a 0-dim tensor, got {value!r:.80}"
                )
        return losses


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a step works on.

    Attributes:
        model: the user's.
        losses: `Losses` around it, in DistributedDataParallel where there are several ranks.
        lr_factor: the schedule, by 0-based step.
        clip_norm: global gradient norm, or None.
        accumulate: passes an optimiser step.
    """

    model: nn.Module
    losses: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: ParameterAverage | None
    precision: Precision
    lr_factor: Callable[[int], float]
    clip_norm: float | None
    accumulate: int

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has its averaged parameters, where there are any."""
        return nullcontext() if self.average is None else self.average.applied()

    def synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Ranks exchange gradients in the last pass of a step only."""
        if last or not isinstance(self.losses, DistributedDataParallel):
            return nullcontext()
        return self.losses.no_sync()  # type: ignore[no-any-return]


def train_step(training: Training, batches: Batches, step: int) -> StepRecord:
    """Forward, backward, update: step `step` (0-based), on the device's queue and without waiting for it."""
    started, wait_seconds, skipped = time.perf_counter(), 0.0, 0
    optimizer, scaler = training.optimizer, training.scaler
    set_learning_rate(optimizer, training.lr_factor(step))
    optimizer.zero_grad(set_to_none=True)
    means: dict[str, Tensor] = {}
    sample_ids = []
    for index in range(training.accumulate):
        batch = next(batches)
        wait_seconds += batches.wait_seconds
        skipped += batches.skipped
        sample_ids.append(batch.sample_ids)
        with training.synchronised(last=index == training.accumulate - 1):
            with training.precision.autocast():
                losses = {name: loss / training.accumulate for name, loss in training.losses(batch).items()}
                total = cast(Tensor, sum(losses.values()))
            scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        for name, loss in losses.items():
            means[name] = means[name] + loss.detach() if name in means else loss.detach()
    scaler.unscale_(optimizer)
    grad_norm = clip_gradients(training.model.parameters(), clip_norm=training.clip_norm)
    scaler.step(optimizer)
    scaler.update()
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
