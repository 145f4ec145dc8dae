"""The parts of one training, put together, and brought back to where an interrupted one stood."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from detcore.config import Config
from detcore.data import ShardedSplit
from detcore.engine.checkpoint import Checkpoint, CheckpointFolder
from detcore.engine.collective import from_rank_zero, gather
from detcore.engine.comparing import Comparison
from detcore.engine.evaluate import Scores, detect, evaluator_of
from detcore.engine.fingerprint import differences
from detcore.engine.history import History, write_summary
from detcore.engine.meter import Meter
from detcore.engine.mirror import Mirror
from detcore.engine.optim import load_state
from detcore.engine.publish import publish
from detcore.engine.rng import rng_state, set_rng_state
from detcore.engine.saving import CheckpointWriter
from detcore.engine.signals import StopRequest
from detcore.engine.state import TrainingState
from detcore.engine.step import Batches, Training
from detcore.engine.worker import Worker
from detcore.evaluation import Evaluator, GroundTruth
from detcore.structures.batch import Batch


def say(line: str) -> None:
    print(line, flush=True)


class Loader(Batches, Protocol):
    """What a training asks of its source of batches."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class EvaluationLoader(Protocol):
    """One pass over a split for each iteration."""

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None: ...


@dataclass(kw_only=True)
class Run:
    """What `fit` works with. Every rank has one.

    Attributes:
        truth: of val.
        training: what a step needs.
        batches, val_batches: this rank's shares of train, without end, and of val, one pass at a time.
        history, evaluations: the curves; a row a log and a row an evaluation.
        mirror: their copies at a store, where there is one.
        writer: puts checkpoints into the folder and the mirror; on rank 0.
        description: what will be published beside the weights.
        saved_step: of the last checkpoint, or None.
        unsaved: an evaluation made this step one to be kept.
    """

    config: Config
    worker: Worker
    train_split: ShardedSplit
    val_split: ShardedSplit
    truth: GroundTruth
    training: Training
    batches: Loader
    val_batches: EvaluationLoader
    meter: Meter
    history: History
    evaluations: History
    checkpoints: CheckpointFolder
    mirror: Mirror | None
    writer: CheckpointWriter
    description: dict[str, Any]
    fingerprint: dict[str, Any]
    comparison: Comparison = field(default_factory=Comparison)
    state: TrainingState = field(default_factory=TrainingState)
    saved_step: int | None = None
    unsaved: bool = False

    def checkpoint_due(self) -> bool:
        """At regular steps, and where an evaluation has changed what there is to be kept."""
        step = self.state.step
        return self.unsaved or (
            step > 0 and step % self.config.engine.checkpoint_every == 0 and step != self.saved_step
        )

    def evaluate(self, stop: StopRequest) -> list[tuple[int, Scores]]:
        """What evaluations on val have found by now, by their step: that of this step, where one is due.

        In the background it is compared while training goes on, and found by a later step: by one that logs, if it has
        arrived, and by one that evaluates, saves or stops, which waits for it. So checkpoints hold what is found, or
        are of the step itself, whose evaluation is then made anew on resuming; and a resumed training is the same.

        Raises:
            NonFiniteLossError: if a step since the last check was not finite: there is nothing to be evaluated.
        """
        state, engine, comparison = self.state, self.config.engine, self.comparison
        stopping = stop.reason is not None
        due = state.evaluation_due(engine) and not stopping
        found = []
        if comparison.step is not None and (
            (due or stopping or self.checkpoint_due()) or (state.step % engine.log_every == 0 and comparison.arrived())
        ):
            found.append(self._take())
        if due:
            state.judge(engine=engine)
            if not state.finished and self._detect(interrupted=lambda: stop.agreed() is not None):
                if engine.evaluation.in_background and state.step < engine.steps:
                    self.unsaved = state.step != self.saved_step  # it may turn out to be the best
                else:
                    found.append(self._take())
                    state.judge(engine=engine)
            self.unsaved |= state.finished or state.best_step == state.step
        return found

    def _take(self) -> tuple[int, Scores]:
        step, scores = self.comparison.take()
        self.state.take_evaluation(step, scores.metrics, engine=self.config.engine)
        self.evaluations.add(step, scores.metrics)
        return step, scores

    def _detect(self, interrupted: Callable[[], bool]) -> bool:
        """Detects on val, with the averaged parameters where there are any, and begins to compare.

        False if interrupted.
        """
        self.meter.check()
        settings, tracking = self.config.engine.evaluation, self.config.tracking
        pictured = self.val_split.spread(tracking.num_pictures) if tracking.enabled else ()
        weights = {"": self.training.averaged()}
        if settings.raw_weights and self.training.average is not None:
            weights["raw_"] = nullcontext()
        evaluators: dict[str, Evaluator] = {}
        losses: dict[str, float] = {}
        for prefix, of_model in weights.items():
            evaluators[prefix] = evaluator_of(self.training.model, self.truth, settings, keep_maps_of=pictured)
            with of_model:
                means = detect(
                    self.training.model,
                    self._watched(self.val_batches),
                    evaluator=evaluators[prefix],
                    precision=self.training.precision,
                    losses=self.config.engine.validation_loss,
                    interrupted=interrupted,
                )
            if means is None:
                return False
            losses |= {f"{prefix}{name}": value for name, value in means.items()}
        self.comparison.begin(self.state.step, evaluators, losses)
        return True

    def _watched(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches, each a sign of life."""
        step = self.state.step
        self.worker.beat(step, bounded=True)
        for batch in batches:
            yield batch
            self.worker.beat(step, bounded=True)
        self.worker.beat(step, bounded=False)

    def save(self, *, wait: bool) -> Path:
        """A checkpoint of this step. Every rank must call it.

        Args:
            wait: until it is on disk; else it may be written while the training goes on.

        Returns:
            Its folder.

        Raises:
            NonFiniteLossError: if a step since the last check was not finite: its weights are not to be kept.
            CheckpointError: if it, or the one before, cannot be written.
        """
        self.meter.check()
        generators = gather(rng_state())
        from_rank_zero(lambda: self.writer.save(self._snapshot(generators), wait=wait))
        if wait and self.mirror is not None:
            self.mirror.wait(self._beat)
        self.saved_step, self.unsaved = self.state.step, False
        return self.checkpoints.folder(self.state.step)

    def resume(self) -> None:
        """Takes up the newest valid checkpoint, if it is of the same training; rank 0 reads it for all ranks."""
        checkpoint = from_rank_zero(self._resumable)
        if checkpoint is None:
            self.history.load([])  # curves of another training may lie there
            self.evaluations.load([])
            return
        training, tensors, record = self.training, checkpoint.tensors, checkpoint.record
        training.model.load_state_dict(checkpoint.weights)
        if training.average is not None:
            assert checkpoint.average is not None
            training.average.load(checkpoint.average)
        load_state(training.optimizer, tensors["optimizer"])
        training.passes.scaler.load_state_dict(tensors["scaler"])
        self.batches.load_state_dict(tensors["loader"])
        if self.worker.rank < len(tensors["generators"]):  # fewer ranks may have saved it
            set_rng_state(tensors["generators"][self.worker.rank])
        self.meter.load_state_dict(record["meter"])
        self.history.load(record["history"])
        self.evaluations.load(record["evaluations"])
        self.state = TrainingState.from_dict(record["state"])
        self.saved_step = self.state.step

    def publish(self) -> Path:
        """Writes the model folder from the best checkpoint, and the run's summary."""
        return from_rank_zero(self._publish)

    def close(self) -> None:
        """Waits for the checkpoint that is being written, ends the threads and closes the shards."""
        for opened in (self.batches, self.val_batches, self.train_split, self.val_split, self.comparison):
            opened.close()
        if (error := self.writer.close()) is not None:
            say(str(error))
        if self.mirror is not None:
            self.mirror.close(self._beat)

    def _beat(self) -> None:
        self.worker.beat(self.state.step, bounded=False)

    def _snapshot(self, generators: list[dict[str, Any]]) -> Checkpoint:
        training, average = self.training, None
        weights = training.model.state_dict()
        if training.average is not None:
            with training.averaged():
                average = training.model.state_dict()  # goes on pointing to the averages
        return Checkpoint(
            step=self.state.step,
            weights=weights,
            average=average,
            tensors={
                "optimizer": training.optimizer.state_dict(),
                "scaler": training.passes.scaler.state_dict(),
                "loader": self.batches.state_dict(),
                "generators": generators,
            },
            record={
                "state": self.state.to_dict(),
                "meter": self.meter.state_dict(),
                "history": self.history.state(),
                "evaluations": self.evaluations.state(),
                "fingerprint": self.fingerprint,
                "description": self.description,
                "config": self.config.shareable(),
            },
        )

    def _resumable(self) -> Checkpoint | None:
        """The checkpoint to go on from; says what was found, and moves what is of no use out of the way."""
        folder = self.checkpoints
        checkpoint = self._same_training() if folder.steps() else None
        if self.mirror is not None:
            checkpoint = self.mirror.fetch(after=checkpoint.step if checkpoint else 0) or checkpoint
        if checkpoint is None:
            return None
        folder.drop_after(checkpoint.step)
        done = "finished" if checkpoint.record["state"]["finished"] else "resuming"
        say(f"{done} at step {checkpoint.step} of {self.config.engine.steps}: {folder.folder(checkpoint.step)}")
        return checkpoint

    def _same_training(self) -> Checkpoint | None:
        """The folder's newest whole checkpoint; of another training, all are set aside."""
        folder = self.checkpoints
        checkpoint = folder.newest()
        different = differences(checkpoint.record["fingerprint"], self.fingerprint) if checkpoint else "none is whole"
        if not different:
            return checkpoint
        where = folder.set_aside()
        say(f"starting anew: {folder.path} is of another training ({different}); its checkpoints are now in {where}")
        return None

    def _publish(self) -> Path:
        best, metrics = self.state.best_step, self.state.best_metrics
        assert best is not None, "a finished training has been evaluated"
        try:
            weights = self.checkpoints.read_weights(best)
        except (OSError, ValueError) as error:
            say(f"the best checkpoint is lost ({error}): publishing the last weights instead")
            with self.training.averaged():
                weights = {name: value.clone() for name, value in self.training.model.state_dict().items()}
            metrics = self.state.metrics
        folder = Path(self.config.run_dir)
        left_out = {"skipped_samples": self.meter.skipped} if self.meter.skipped else {}
        write_summary(folder / "train.json", {"step": self.state.step, "best_step": best, **left_out, **metrics})
        return publish(folder / "model", weights, description=self.description, metrics=metrics)
