"""The loop."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import nn

from detcore.config import Config
from detcore.data import SampleTransform
from detcore.engine.build import open_run
from detcore.engine.callbacks import Callback, Start
from detcore.engine.progress import ProgressLine
from detcore.engine.rng import deterministic_algorithms
from detcore.engine.signals import StopReason, StopRequest
from detcore.engine.state import TrainingState
from detcore.engine.step import train_step
from detcore.engine.worker import Worker


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The outcome of a training.

    Attributes:
        step: optimiser steps done.
        metrics: of the last evaluation on val.
        best_step, best_metrics: of the best; None and empty before the first evaluation.
        model_dir: the published model folder; None if stopped.
        stopped: why the training left early and can be resumed; None where it is complete, early stopping included.
    """

    step: int
    metrics: dict[str, float]
    best_step: int | None
    best_metrics: dict[str, float]
    model_dir: Path | None
    stopped: StopReason | None

    @classmethod
    def of(cls, state: TrainingState, *, model_dir: Path | None, stopped: StopReason | None) -> Self:
        return cls(
            step=state.step,
            metrics=state.metrics,
            best_step=state.best_step,
            best_metrics=state.best_metrics,
            model_dir=model_dir,
            stopped=stopped,
        )

    @property
    def exit_code(self) -> int:
        """What a process that did only this should exit with: 128 + the signal, as shells count."""
        return {None: 0, "SIGINT": 130, "SIGTERM": 143, "requested": 143}[self.stopped]


def fit(
    model: nn.Module,
    *,
    config: Config,
    shards: str | Path,
    worker: Worker,
    callbacks: Sequence[Callback] = (),
    transform: SampleTransform | None = None,
) -> FitResult:
    """Trains `model` and publishes the best of it. Every rank calls it.

    The run's folder gets `checkpoints/`, `model/`, `history.csv` (a row a log), `evaluations.csv` (a row an evaluation)
    and `train.json`. A checkpoint of the same training (configuration, data and code) in it is gone on with, bit by bit
    as if never stopped; a finished training is only published again.

    Args:
        model: any module with losses(batch) and detect(batch); trained in place, and left with its last weights.
        config: of it the engine uses seed, run_dir, model, data, optim and engine.
        shards: prepared data with the splits train and val: a folder or a URL.
        worker: this rank.
        callbacks: used on rank 0.
        transform: a user's own augmentation of the training samples.

    Raises:
        ValueError: if model, data and configuration do not fit together, or a loss is not finite.
        OSError: if a checkpoint cannot be written.
    """
    engine = config.engine
    callbacks = callbacks if worker.rank == 0 else ()
    stopped: StopReason | None = None
    with ExitStack() as stack:
        stop = stack.enter_context(StopRequest(worker))
        stack.enter_context(deterministic_algorithms(engine.deterministic))
        run = open_run(model, config=config, shards=shards, worker=worker, transform=transform)
        stack.callback(run.close)
        stop.watch(run.writer.failed)  # then the save below says why
        state = run.state
        progress = stack.enter_context(ProgressLine(engine, step=state.step, shown=worker.rank == 0))
        for callback in callbacks:
            callback.on_start(Start(config=config, step=state.step, model=model, val_split=run.val_split))

        while not state.finished:
            stop.agreed(state.step)
            checkpoint, found = None, run.evaluate(stop)
            stopped = stop.reason  # an evaluation cut short is made up for on resuming
            for step, scores in found:
                progress.evaluation(step, scores.metrics)
                for callback in callbacks:
                    assert scores.evaluation is not None, "of rank 0"
                    callback.on_evaluate(step, scores.metrics, scores.evaluation)
            if stopped or run.checkpoint_due():
                checkpoint = run.save(wait=state.finished or stopped is not None)
            for step, scores in found:
                worker.report({"step": step, **scores.metrics}, checkpoint)
            if state.finished or stopped:
                break

            worker.beat(state.step, bounded=True)
            run.meter.add(train_step(run.training, run.batches, state.step))
            state.step += 1
            worker.beat(state.step, bounded=False)
            metrics = None
            if state.step % engine.log_every == 0 or state.step == engine.steps:
                metrics = run.meter.flush()
                run.history.add(state.step, metrics)
                for callback in callbacks:
                    callback.on_log(state.step, metrics)
            progress.step(state.step, metrics=metrics)

        result = FitResult.of(state, model_dir=None if stopped else run.publish(), stopped=stopped)
        for callback in callbacks:
            callback.on_end(result)
    return result
