"""What Ray Tune tells the driver about trials: into their records, onto the board, and to MLflow."""

from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler

from detcore.config import EngineConfig
from detcore.launch.tuning.board import Board, Row
from detcore.launch.tuning.leaving import Leaving
from detcore.launch.tuning.plan import Halving
from detcore.launch.tuning.record import NUMBER, Outcome, TrialRecord, trial_folder
from detcore.launch.tuning.trial import Sweep
from detcore.tracking import tag_run


class Watch(tune.Callback):  # type: ignore[misc]
    """Writes down how each trial ends. One that is ended only because the search is, keeps none: it goes on later.

    Args:
        uri: MLflow's store, or None where nothing is tracked.
    """

    def __init__(
        self,
        sweep: Sweep,
        board: Board,
        *,
        engine: EngineConfig,
        scheduler: TrialScheduler,
        leaving: Leaving,
        uri: str | None,
    ) -> None:
        self._sweep, self._board, self._engine, self._uri = sweep, board, engine, uri
        self._scheduler, self._leaving = scheduler, leaving

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if self._leaving.wanted:
            self._leaving.leave(row.number for row in self._board.rows.values() if row.status == "training")

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        change = f"starts with {self._sweep.tags(record)['tune.overrides'].replace(chr(10), ' ')}"
        self._show(record, change, status="training")

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result.get("step"):
            change = f"step {result['step']}/{self._engine.steps}  {result['score']:.2f}, best {result['best']:.2f}"
            self._show(self._record(trial), change, status="training")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        last = trial.last_result or {}
        if last.get("failure"):
            self._conclude(trial, "failed", last["failure"])
        elif last.get("finished"):
            self._conclude(trial, "finished")
        elif isinstance(self._scheduler, Halving) and trial.trial_id in self._scheduler.ended:
            self._conclude(trial, "stopped early")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        reason = " ".join(str(trial.get_error() or "its process was lost").split())
        self._conclude(trial, "failed", reason[-300:])

    def _conclude(self, trial: Any, outcome: Outcome, reason: str = "") -> None:
        record = self._record(trial).concluded(outcome, reason).save()
        self._show(record, f"{outcome} {reason}".rstrip(), status=outcome)
        if self._uri is not None:
            tag_run(record.folder, outcome_tags(self._sweep, record), uri=self._uri)

    def _record(self, trial: Any) -> TrialRecord:
        return TrialRecord.load(trial_folder(self._sweep.folder, trial.config[NUMBER]))

    def _show(self, record: TrialRecord, change: str, *, status: str) -> None:
        row = Row.of(record, self._engine)
        row.status = status
        if rows := record.evaluations():
            self._board.metric = self._engine.monitored(rows[-1])
        self._board.show(row, change)


def outcome_tags(sweep: Sweep, record: TrialRecord) -> dict[str, str]:
    """Of a trial's run in MLflow, once it has ended."""
    tags = {**sweep.tags(record), "tune.outcome": record.outcome or "unfinished"}
    if record.reason:
        tags["tune.reason"] = record.reason
    if record.takeovers:
        done = record.takeovers[: record.taken_over]
        tags["tune.takeovers"] = "\n".join(f"step {each.step} of trial {each.donor}" for each in done)
    return tags
