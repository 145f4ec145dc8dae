"""A trial in a process of Ray Tune's: a training, told of evaluation by evaluation."""

import json
import sys
import threading
import time
import traceback
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune
from torch import nn

from detcore.config import ClusterConfig, Config
from detcore.config.tune import Pbt
from detcore.config.variation import Variations, as_overrides
from detcore.engine import FitResult, LocalWorker, pick_device
from detcore.engine.adopting import adopt_checkpoint
from detcore.engine.checkpoint import MANIFEST, CheckpointFolder
from detcore.launch.lock import until_free
from detcore.launch.ray_train import worth_another_try
from detcore.launch.stopping import FILE_NAME as STOP_FILE_NAME
from detcore.launch.training import train
from detcore.launch.tuning.record import LOG, NUMBER, Takeover, TrialRecord, best_of, from_ray, trial_folder

DONOR = "donor.json"
"""What Ray passes on as a trial's checkpoint: where the real one is."""
_LOOK_SECONDS = 0.2
_SAVE_SECONDS = 600.0
_LEAVE_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What every trial of a search is told.

    Attributes:
        folder: of the search, which all nodes share.
        variations: all configurations that there may be, with absolute paths.
        scheduler: of the search.
        parent_run: MLflow's run of the search, or None.
        model: a user's own, or None to build what the configuration says.
    """

    folder: Path
    name: str
    variations: Variations
    scheduler: Any
    parent_run: str | None = None
    model: nn.Module | None = None

    def config(self, record: TrialRecord) -> Config:
        """The configuration of a trial's training.

        Raises:
            ValueError: if its settings do not go together.
        """
        config = self.variations.config(record.current)
        engine, cluster = config.engine, config.cluster
        if isinstance(self.scheduler, Pbt):
            # Others may take them up until the search ends.
            interval = self.scheduler.interval_steps or engine.eval_every
            engine = engine.model_copy(update={"checkpoint_every": interval, "keep_every": interval})
        if cluster.most_workers == 1:
            cluster = ClusterConfig(type="local")  # in the trial's own process
        # A trial is one of many, and on a machine with others: no pictures, no load, no model each.
        quiet = {"num_pictures": 0, "system_metrics": False, "log_model": False}
        return config.model_copy(
            update={
                "name": f"{self.name}-trial-{record.number:04d}",
                "run_dir": str(record.folder),
                "engine": engine,
                "cluster": cluster,
                "tracking": config.tracking.model_copy(update=quiet),
            }
        )

    def tags(self, record: TrialRecord) -> dict[str, str]:
        """Of the trial's run in MLflow."""
        own = {"tune.trial": str(record.number), "tune.overrides": "\n".join(as_overrides(record.current))}
        return own if self.parent_run is None else {"mlflow.parentRunId": self.parent_run, **own}


@dataclass(frozen=True, kw_only=True)
class TrialWorker(LocalWorker):
    """This process alone, told to leave by a file."""

    stop_file: Path

    def stop_requested(self) -> bool:
        return self.stop_file.exists()


class Trial(tune.Trainable):  # type: ignore[misc]
    """What Ray Tune starts, asks for the next evaluation, has saved, and ends.

    The training runs in a thread, here or with workers of its own, and knows nothing of Tune: its evaluations are read
    from its folder. So a trial that is started again tells at once what was found before, and goes on from its
    checkpoint.
    """

    def setup(self, config: dict[str, Any], *, sweep: Sweep) -> None:  # type: ignore[override]
        self._sweep = sweep
        self._folder = trial_folder(sweep.folder, config[NUMBER])
        self._record = TrialRecord.load(self._folder)
        self._outcome: Future[FitResult] | None = None
        self._told = 0
        # The process is the trial's alone.
        sys.stdout = sys.stderr = (self._folder / LOG).open("a", buffering=1)

    def load_checkpoint(self, folder: str) -> None:  # type: ignore[override]
        """Notes whose checkpoint to go on from. One of this trial's own is in its folder anyhow."""
        donor = json.loads(Path(folder, DONOR).read_text())
        takeover = Takeover(donor=donor["trial"], step=donor["step"], values=from_ray(self.config))
        if takeover.donor == self._record.number:
            self._told = takeover.step  # and this much has been told
        elif takeover not in self._record.takeovers[-1:]:
            self._record = replace(self._record, takeovers=(*self._record.takeovers, takeover)).save()

    def save_checkpoint(self, folder: str) -> None:
        """Says where the checkpoint of the last evaluation is, once it is whole."""
        path = CheckpointFolder(self._folder / "checkpoints", keep=1, say=print).folder(self._told)
        until = time.monotonic() + _SAVE_SECONDS
        while self._told and not (path / MANIFEST).is_file():
            if time.monotonic() > until or self._outcome is None or self._outcome.done():
                break
            time.sleep(_LOOK_SECONDS)
        Path(folder, DONOR).write_text(json.dumps({"trial": self._record.number, "step": self._told}))

    def step(self) -> dict[str, Any]:
        """Waits for the next evaluation.

        Returns:
            step, score, best so far and at which step; and of the last one, whether the training finished, or why it
            failed. Neither, if it was told to leave.

        Raises:
            Exception: what the training raised, if another attempt may succeed.
        """
        if self._outcome is None:
            self._outcome = self._begin()
        while True:
            ended = self._outcome.done()
            fresh = [found for found in self._scores() if found[0] > self._told]
            # The last evaluation is told when all is done, with the outcome.
            if len(fresh) > 1 or (fresh and not ended and fresh[0][0] < self._config.engine.steps):
                return self._told_of(fresh[0])
            if ended:
                return self._ending(self._outcome, fresh[0] if fresh else None)
            time.sleep(_LOOK_SECONDS)

    def cleanup(self) -> None:
        """Has the training save and leave."""
        if self._outcome is not None and not self._outcome.done():
            (self._folder / STOP_FILE_NAME).touch()
            try:
                self._outcome.exception(timeout=_LEAVE_SECONDS)
            except TimeoutError:
                print("the training does not leave; its last checkpoint stands", flush=True)

    def _begin(self) -> "Future[FitResult]":
        outcome: Future[FitResult] = Future()
        try:
            until_free(self._folder, seconds=_LEAVE_SECONDS)
            self._config = self._sweep.config(self._record)
            self._take_over()
        except (ValueError, OSError) as error:
            outcome.set_exception(error)
            return outcome
        (self._folder / STOP_FILE_NAME).unlink(missing_ok=True)
        threading.Thread(target=self._train, args=(outcome,), name="detcore-trial", daemon=True).start()
        return outcome

    def _train(self, outcome: "Future[FitResult]") -> None:
        try:
            worker = None
            if self._config.cluster.type == "local":
                device = pick_device(self._config.engine.device)
                worker = TrialWorker(device=device, stop_file=self._folder / STOP_FILE_NAME)
            tags = self._sweep.tags(self._record)
            outcome.set_result(train(self._config, model=self._sweep.model, worker=worker, tags=tags))
        except BaseException as error:  # raised where Ray sees it
            traceback.print_exc()
            outcome.set_exception(error)

    def _take_over(self) -> None:
        """Makes the donor's checkpoint this trial's, if that is still to be done."""
        record = self._record
        if record.taken_over < len(record.takeovers):
            takeover = record.takeovers[-1]
            donor, own = (
                CheckpointFolder(folder / "checkpoints", keep=1, say=print)
                for folder in (trial_folder(self._sweep.folder, takeover.donor), self._folder)
            )
            for curve in ("evaluations.csv", "history.csv"):  # the donor's come with the checkpoint
                (self._folder / curve).unlink(missing_ok=True)
            adopt_checkpoint(donor, own, step=takeover.step, config=self._config)
            self._record = replace(record, taken_over=len(record.takeovers)).save()
            print(f"going on from step {takeover.step} of trial {takeover.donor}: {self._sweep.tags(record)}")
        if record.takeovers:
            self._told = max(self._told, record.takeovers[-1].step)

    def _scores(self) -> list[tuple[int, float]]:
        return self._record.scores(self._config.engine) if hasattr(self, "_config") else []

    def _told_of(self, found: tuple[int, float]) -> dict[str, Any]:
        self._told = found[0]
        best = best_of([each for each in self._scores() if each[0] <= self._told])
        assert best is not None, "this one at least"
        return {"step": found[0], "score": found[1], "best_step": best[0], "best": best[1], "done": False}

    def _ending(self, outcome: "Future[FitResult]", last: tuple[int, float] | None) -> dict[str, Any]:
        scores = self._scores()
        told = self._told_of(last or scores[-1]) if scores else {"step": 0, "score": float("-inf")}
        if (error := outcome.exception()) is not None:
            if worth_another_try(error):
                raise error
            return {**told, "done": True, "finished": False, "failure": " ".join(str(error).split())}
        return {**told, "done": True, "finished": outcome.result().stopped is None, "failure": ""}
