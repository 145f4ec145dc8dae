"""Where a training stands: all of it that is not a tensor."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from detcore.config import EngineConfig


@dataclass(kw_only=True)
class TrainingState:
    """The clock, and what evaluations have said so far.

    Attributes:
        step: optimiser steps done.
        evaluated_step: the last step that was evaluated; 0 is none.
        metrics: what that evaluation gave.
        best_step, best_metrics: the evaluation with the highest `engine.monitor`; None before the first.
        evaluations_without_better: in a row, for early stopping.
        finished: nothing is left to train.
    """

    step: int = 0
    evaluated_step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    best_metrics: dict[str, float] = field(default_factory=dict)
    evaluations_without_better: int = 0
    finished: bool = False

    def evaluation_due(self, engine: EngineConfig) -> bool:
        """Every `eval_every` steps and at the last one; once. Never before the first step."""
        due = self.step == engine.steps or (engine.eval_every is not None and self.step % engine.eval_every == 0)
        return due and self.step > self.evaluated_step

    def take_evaluation(self, step: int, metrics: Mapping[str, float], *, engine: EngineConfig) -> None:
        """Remembers the evaluation of a step, and whether it is the best so far; the earlier of two equals is."""
        self.evaluated_step, self.metrics = step, dict(metrics)
        name = engine.monitored(metrics)
        better = self.best_step is None or metrics[name] > self.best_metrics[name]
        if better:
            self.best_step, self.best_metrics = step, dict(metrics)
        self.evaluations_without_better = 0 if better else self.evaluations_without_better + 1

    def judge(self, *, engine: EngineConfig) -> None:
        """Whether evaluations end the training here. Asked where one is due: that no timing moves."""
        patience = engine.early_stop_patience
        self.finished = self.evaluated_step == engine.steps or (
            patience is not None and self.evaluations_without_better >= patience
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)
