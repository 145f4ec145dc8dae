"""Which settings the trials have, and which of them end early: from the tune section to Ray Tune's own objects."""

import importlib.util
import itertools
import logging
import random
from collections.abc import Callable, Iterable
from functools import partial
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import BasicVariantGenerator, Searcher

from detcore.config import EngineConfig
from detcore.config.tune import Asha, Choice, Drawn, LogUniform, Pbt, RandInt, TuneConfig, Uniform
from detcore.launch.tuning.record import NUMBER, TrialRecord, as_one, best_of, for_ray

TIME, SCORE = "step", "score"
"""What trials report: where they are, and the metric that decides."""


def planned_values(config: TuneConfig, number: int) -> dict[str, Any]:
    """The settings of one trial, where none depends on others: the same for every search with this seed.

    Args:
        number: the trial's, from 0.
    """
    combinations = list(itertools.product(*(grid.values for grid in config.grids.values())))
    chosen = dict(zip(config.grids, combinations[number % len(combinations)], strict=True))
    draw = random.Random(f"{config.seed}/{number // len(combinations)}" if chosen else f"{config.seed}/{number}")
    drawn = {key: distribution.at(draw.random()) for key, distribution in config.drawn.items()}
    return {key: {**chosen, **drawn}[key] for key in config.space}


class Planned(BasicVariantGenerator):  # type: ignore[misc]
    """Hands out trials whose settings are known.

    Args:
        at_once: so many are not yet at their end, at most; 0 is all. One that is paused counts.
    """

    def __init__(self, records: Iterable[TrialRecord], *, at_once: int) -> None:
        super().__init__(points_to_evaluate=[for_ray(record) for record in records], max_concurrent=at_once)


class OptunaSearch(Searcher):  # type: ignore[misc]
    """Asks Optuna for each next trial's settings, and tells it what came of them.

    Args:
        config: of the search.
        known: trials from before; those that have not ended are handed out first.
        begin: makes the record of a new trial, of number and settings.

    Raises:
        ValueError: if Optuna is not installed.
    """

    def __init__(
        self, config: TuneConfig, known: Iterable[TrialRecord], *, begin: Callable[[int, dict[str, Any]], TrialRecord],
        engine: EngineConfig,
    ) -> None:  # fmt: skip
        super().__init__(metric=SCORE, mode="max")
        if importlib.util.find_spec("optuna") is None:
            raise ValueError("tune.search = optuna: Optuna is not installed; pip install 'detcore[tune]'")
        import optuna

        logging.getLogger("optuna").setLevel(logging.WARNING)
        known = list(known)
        self._config, self._begin = config, begin
        self._distributions = {key: _optuna_distribution(one) for key, one in config.drawn.items()}
        # Another seed after a restart: the same one would draw again what it drew at first.
        sampler = optuna.samplers.TPESampler(seed=config.seed + len(known), n_startup_trials=config.startup_trials)
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._left = [record for record in known if not record.ended]
        self._next = max((record.number for record in known), default=-1) + 1
        self._asked: dict[str, Any] = {}
        for record in known:
            best = best_of(record.scores(engine))
            if record.ended and best is not None:
                self._study.add_trial(
                    optuna.trial.create_trial(
                        params=self._as_params(record.values), distributions=self._distributions, value=best[1]
                    )
                )

    def suggest(self, trial_id: str) -> Any:
        if self._left:
            record = self._left.pop(0)
            self._study.enqueue_trial(self._as_params(record.values))
            self._asked[trial_id] = self._study.ask(self._distributions)
            return for_ray(record)
        if self._next >= self._config.trials:
            return Searcher.FINISHED
        number, self._next = self._next, self._next + 1
        asked = self._asked[trial_id] = self._study.ask(self._distributions)
        values = {key: _value(one, asked.params[key]) for key, one in self._config.drawn.items()}
        return for_ray(self._begin(number, values))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        from optuna.trial import TrialState

        asked = self._asked.pop(trial_id, None)
        if asked is None:
            return
        if error or not result or "best" not in result:
            self._study.tell(asked, state=TrialState.FAIL)
        else:
            self._study.tell(asked, result["best"])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: trials are kept by their records."""

    def restore(self, checkpoint_path: str) -> None:
        """As `save`."""

    def _as_params(self, values: dict[str, Any]) -> dict[str, Any]:
        return {
            key: [as_one(value) for value in one.values].index(as_one(values[key]))
            if isinstance(one, Choice)
            else values[key]
            for key, one in self._config.drawn.items()
        }


def build_scheduler(config: TuneConfig, *, engine: EngineConfig, before: Iterable[TrialRecord]) -> TrialScheduler:
    """Ray's scheduler for the search.

    Args:
        before: trials that have ended in an earlier process; what they reached counts at the rungs.
    """
    scheduler = config.scheduler
    match scheduler:
        case Asha():
            halving = Halving(
                time_attr=TIME,
                max_t=engine.steps,
                grace_period=scheduler.grace_steps or engine.eval_every or engine.steps,
                reduction_factor=scheduler.reduction_factor,
                stop_last_trials=False,  # the last is over anyhow, and publishes its model
            )
            halving.set_search_properties(SCORE, "max")
            for record in before:
                halving.recall(record, engine)
            return halving
        case Pbt():
            return Population(
                time_attr=TIME,
                metric=SCORE,
                mode="max",
                perturbation_interval=scheduler.interval_steps or engine.eval_every or engine.steps,
                hyperparam_mutations={key: _ray_domain(one) for key, one in config.drawn.items()},
                quantile_fraction=scheduler.quantile,
                resample_probability=scheduler.resample_probability,
                custom_explore_fn=partial(within, config),
                log_config=False,
            )
    return FIFOScheduler()  # type: ignore[no-untyped-call]


class Halving(ASHAScheduler):  # type: ignore[misc]
    """Ray's, which also says whom it has ended, and knows what trials of an earlier process reached."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.ended: set[str] = set()

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action = str(super().on_trial_result(tune_controller, trial, result))
        if action == TrialScheduler.STOP:
            self.ended.add(trial.trial_id)
        return action

    def recall(self, record: TrialRecord, engine: EngineConfig) -> None:
        """Enters the evaluations of a trial that is over."""
        trial: Any = SimpleNamespace(trial_id=f"before-{record.number}")
        nobody: Any = None  # of Ray's controller nothing is asked
        self.on_trial_add(nobody, trial)
        for step, score in record.scores(engine):
            super().on_trial_result(nobody, trial, {TIME: step, SCORE: score})
        self.on_trial_remove(nobody, trial)


class Population(PopulationBasedTraining):  # type: ignore[misc]
    """Ray's, in which a trial that takes up another's settings keeps its own number."""

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        settings, operations = super()._get_new_config(trial, trial_to_clone)
        return {**settings, NUMBER: trial.config[NUMBER]}, operations


def within(config: TuneConfig, values: dict[str, Any]) -> dict[str, Any]:
    """Settings after a change, each moved to the nearest that may be drawn."""
    return {
        key: value if isinstance(one := config.drawn.get(key), Choice | None) else one.within(value)
        for key, value in values.items()
    }


def _ray_domain(drawn: Drawn) -> Any:
    """For drawing anew; of choices their order is what counts."""
    if isinstance(drawn, Choice):
        return [as_one(value) for value in drawn.values]
    return lambda: drawn.at(random.random())


def _optuna_distribution(drawn: Drawn) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match drawn:
        case Uniform() | LogUniform():
            return FloatDistribution(drawn.low, drawn.high, log=isinstance(drawn, LogUniform))
        case RandInt():
            return IntDistribution(drawn.low, drawn.high)
        case Choice():
            return CategoricalDistribution(range(len(drawn.values)))  # Optuna takes no lists


def _value(drawn: Drawn, param: Any) -> Any:
    """What Optuna suggests, as settings have it."""
    return drawn.values[param] if isinstance(drawn, Choice) else drawn.within(param)
