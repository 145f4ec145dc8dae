"""What a search for better settings tries: the tune section."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from detcore.config.section import Count, Fraction, Positive, Section

Scalar = bool | int | float | str | None
_DIGITS = 4
"""Significant digits of what is drawn: settings that people read and type."""


class _Range(Section):
    type: str
    low: float
    high: float

    def within(self, value: float) -> float:
        """The nearest value that may be drawn."""
        return min(max(_rounded(value), self.low), self.high)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.high)
        return self


class Uniform(_Range):
    type: Literal["uniform"]

    def at(self, share: float) -> float:
        """The value below which that share (0 to 1) of all draws lies."""
        return self.within(_rounded(self.low + share * (self.high - self.low)))


class LogUniform(_Range):
    """Uniform in the logarithm: as often between 0.001 and 0.01 as between 0.01 and 0.1."""

    type: Literal["loguniform"]
    low: Positive
    high: Positive

    def at(self, share: float) -> float:
        """As `Uniform.at`."""
        return self.within(math.exp(math.log(self.low) + share * math.log(self.high / self.low)))


class RandInt(Section):
    type: Literal["randint"]
    low: int
    high: int
    """Is drawn, too."""

    def at(self, share: float) -> int:
        """As `Uniform.at`."""
        return self.within(self.low + share * (self.high - self.low + 1) - 0.5)

    def within(self, value: float) -> int:
        """The nearest value that may be drawn."""
        return min(max(round(value), self.low), self.high)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        _check_order(self.low, self.high)
        return self


class _Values(Section):
    values: Annotated[tuple[Any, ...], Field(min_length=1)]
    """Anything that the key may be set to; of a group of conf/, names of its files."""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if any(value in self.values[:index] for index, value in enumerate(self.values)):
            raise ValueError(f"values = {list(self.values)} has one of them twice")
        return self


class Choice(_Values):
    type: Literal["choice"]

    def at(self, share: float) -> Any:
        """As `Uniform.at`, in the order of `values`."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]


class Grid(_Values):
    """Not drawn: each value in turn, with each of the other grids."""

    type: Literal["grid"]


Distribution = Annotated[Uniform | LogUniform | RandInt | Choice | Grid, Field(discriminator="type")]
Drawn = Uniform | LogUniform | RandInt | Choice


class ToTheEnd(Section):
    type: Literal["none"] = "none"


class Asha(Section):
    """Asynchronous successive halving (Li et al., arXiv:1810.05934): trials that are behind at a rung end there."""

    type: Literal["asha"]
    grace_steps: Count | None = None
    """The first rung, in steps; None is engine.eval_every. The next are `reduction_factor` times as far, each."""
    reduction_factor: Annotated[float, Field(gt=1.0)] = 2.0
    """One in so many of those that reached a rung goes on."""


class Pbt(Section):
    """Population-based training (Jaderberg et al., arXiv:1711.09846): the last go on from a leader's checkpoint, with
    its settings, changed a little."""

    type: Literal["pbt"]
    interval_steps: Count | None = None
    """Between two comparisons; None is engine.eval_every."""
    quantile: Annotated[float, Field(gt=0.0, le=0.5)] = 0.25
    """So much of the population is replaced, by one of as many leaders."""
    resample_probability: Fraction = 0.25
    """That a setting is drawn anew in place of times 0.8 or 1.2, or a neighbour among choices."""


class TuneConfig(Section):
    space: Annotated[dict[str, Distribution], Field(min_length=1)]
    """By the dotted key or the group, as on the command line."""
    search: Literal["random", "optuna"] = "random"
    """Draws, or Optuna's TPE, which learns from the trials before."""
    startup_trials: Count = 10
    """Of Optuna: so many are drawn before it has learned."""
    scheduler: Annotated[ToTheEnd | Asha | Pbt, Field(discriminator="type")] = ToTheEnd()
    num_trials: Count | None = None
    """None is one for each combination of the grids."""
    max_concurrent_trials: Count | None = None
    """None is as many as the cluster has room for."""
    seed: int = 0
    """Of what is drawn; that of the trainings is `seed`, the same for all."""

    @property
    def grids(self) -> dict[str, Grid]:
        return {key: one for key, one in self.space.items() if isinstance(one, Grid)}

    @property
    def drawn(self) -> dict[str, Drawn]:
        return {key: one for key, one in self.space.items() if not isinstance(one, Grid)}

    @property
    def trials(self) -> int:
        """How many there are in all."""
        return self.num_trials or self._combinations

    @property
    def _combinations(self) -> int:
        return math.prod(len(grid.values) for grid in self.grids.values())

    @model_validator(mode="after")
    def _countable(self) -> Self:
        if self.num_trials is None and not self.grids:
            raise ValueError("num_trials is not set, and no key of the space is a grid: say how many trials")
        if self.num_trials is not None and self.num_trials % self._combinations:
            raise ValueError(
                f"num_trials = {self.num_trials} is not a multiple of the {self._combinations} combinations of "
                f"{', '.join(self.grids)}"
            )
        return self

    @model_validator(mode="after")
    def _grids_are_drawn_by_nobody(self) -> Self:
        learner = "search = optuna" if self.search == "optuna" else f"scheduler = {self.scheduler.type}"
        if self.grids and (self.search == "optuna" or self.scheduler.type == "pbt"):
            raise ValueError(f"{learner} chooses values itself: {', '.join(self.grids)} is a grid; make it a choice")
        if self.search == "optuna" and self.scheduler.type == "pbt":
            raise ValueError("scheduler = pbt changes settings itself: search = random, not optuna")
        if self.scheduler.type == "pbt" and self.max_concurrent_trials is not None:
            raise ValueError("scheduler = pbt has all trials take turns: leave max_concurrent_trials out")
        if self.scheduler.type == "pbt" and self.trials < 2:
            raise ValueError(f"scheduler = pbt needs a population, got num_trials = {self.trials}")
        return self


def _check_order(low: float, high: float) -> None:
    if not low < high or not math.isfinite(high - low):
        raise ValueError(f"low = {low} is not below high = {high}")


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
