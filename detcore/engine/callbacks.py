"""Where a user's own code hears of a training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import nn

from detcore.config import Config
from detcore.data import ShardedSplit
from detcore.evaluation import Evaluation

if TYPE_CHECKING:
    from detcore.engine.fit import FitResult


@dataclass(frozen=True, kw_only=True)
class Start:
    """What is known when a training begins.

    Attributes:
        step: 0, or where it was resumed.
        model: on its device.
        val_split: what evaluations are on.
    """

    config: Config
    step: int
    model: nn.Module
    val_split: ShardedSplit


class Callback(Protocol):
    """Called on rank 0, in the order of the list. What it raises ends the training: catch what should not."""

    def on_start(self, start: Start) -> None: ...

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Every `engine.log_every` steps: means since the last time; `step` are done."""

    def on_evaluate(self, step: int, metrics: Mapping[str, float], evaluation: Evaluation) -> None:
        """After an evaluation on val. `metrics` are the evaluation's and the validation losses."""

    def on_end(self, result: "FitResult") -> None:
        """Also after a stop that will be resumed; not after an error."""
