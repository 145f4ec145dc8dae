"""Configurations around a composed one: those that a search tries, and the one that it found."""

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from detcore.config.loading import compose_params, config_directory, read_overrides, read_params, validate
from detcore.config.root import Config
from detcore.config.tune import Asha, Choice, Grid, Pbt, TuneConfig
from detcore.config.words import as_word

BEST = "best_overrides.yaml"
"""The file with the settings that a search found best: a list of overrides."""
_NOT_TRIED = {
    **dict.fromkeys(("name", "run_dir", "tune", "tracking", "cluster", "export"), "is no setting of the training"),
    "engine.monitor": "is what trials are compared by",
    "engine.evaluation": "is how trials are compared",
    "data.test_transforms": "changes what trials are compared on",
    "data.shards": "changes what trials are compared on",
}
_TIME = ("engine.steps", "engine.eval_every")
_NEUTRAL = {
    **dict.fromkeys(("optim.weight_decay", "optim.weight_decay_norm", "optim.weight_decay_bias"), 0.0),
    **dict.fromkeys(("optim.backbone_lr_factor", "optim.layer_decay"), 1.0),
}
"""Where a setting does nothing, the optimiser has fewer groups of parameters, and another's state does not fit."""
_KEPT_BY_CHECKPOINTS = ("optim.", "data.", "engine.ema_decay")
"""What may change between two steps of one training: a checkpoint fits whatever these are."""


@dataclass(frozen=True, kw_only=True)
class Variations:
    """All configurations that a search may come to, without conf/: workers elsewhere need not have it.

    Attributes:
        groups: the keys of the space that choose a file of conf/.
        composed: by what is chosen in each, as JSON, the composed configuration.
    """

    groups: tuple[str, ...]
    composed: Mapping[str, Mapping[str, Any]]

    @classmethod
    def around(
        cls, config: Config, *, overrides: Sequence[str] | None = None, file: Path | str | None = None
    ) -> "Variations":
        """Those of `config.tune` around a configuration; each extreme value is tried by itself.

        Args:
            config: whole; it is what is varied unless it is said where it comes from.
            overrides: the words that it was composed of, with which other files of conf/ can be chosen.
            file: the composed file that it was read from, for messages.

        Raises:
            ValueError: for a key that does not exist or must stay as it is, and for an impossible value.
        """
        tune = config.tune
        assert tune is not None, "the caller has looked"
        groups = tuple(key for key in tune.space if _is_group(key))
        if groups and overrides is None:
            raise ValueError(
                f"tune.space: {groups[0]}: {file or 'the configuration'} is composed already, so only dotted keys "
                "can change; give words instead: python pipelines/tune.py tune=..."
            )
        composed = {}
        for choices in itertools.product(*(_extremes(tune.space[key]) for key in groups)):
            chosen = [f"{key}={choice}" for key, choice in zip(groups, choices, strict=True)]
            found = config.model_dump(mode="json") if overrides is None else compose_params([*overrides, *chosen])
            composed[json.dumps(choices)] = {**found, "tune": None}
        variations = cls(groups=groups, composed=composed)
        if faults := list(_misplaced(tune)):
            raise ValueError("\n".join(faults))
        for _ in variations.each_alone(tune):
            pass
        for config in variations.bases():
            _check_clock(config, tune)
        return variations

    def bases(self) -> Iterator[Config]:
        """The configurations in which only the groups have been chosen."""
        for params in self.composed.values():
            yield validate(params, source="configuration")

    def config(self, values: Mapping[str, Any]) -> Config:
        """The one with these settings.

        Args:
            values: by the keys of the space; all groups are among them.

        Raises:
            ValueError: if they do not go together.
        """
        params = self.composed[json.dumps([values[key] for key in self.groups])]
        dotted = {key: value for key, value in values.items() if key not in self.groups}
        return validate(changed(params, dotted, source="tune.space"), source="tune.space")

    def each_alone(self, tune: TuneConfig) -> Iterator[tuple[str, Config]]:
        """The key, and the configuration in which it alone has one of its extreme values.

        Raises:
            ValueError: if such a value is impossible.
        """
        for params in self.composed.values():
            for key, distribution in tune.space.items():
                for value in () if key in self.groups else _extremes(distribution):
                    params_then = changed(params, {key: value}, source="tune.space")
                    yield key, validate(params_then, source="tune.space")


def changed(params: Mapping[str, Any], values: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """A copy of a composed configuration with other values at some dotted keys; whether they fit, `validate` says.

    Raises:
        ValueError: if something on the way to a key is no section.
    """
    copied: dict[str, Any] = copy.deepcopy(dict(params))
    for key, value in values.items():
        *sections, last = (int(part) if part.isdecimal() else part for part in key.lstrip("+").split("."))
        target: Any = copied
        try:
            for section in sections:
                if isinstance(target, dict) and target.get(section) is None:
                    target[section] = {}
                target = target[section]
            target[last] = value
        except (IndexError, KeyError, TypeError):
            raise ValueError(f"{source}: {key}: no such key") from None
    return copied


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Settings as words of the command line."""
    return [f"{key}={as_word(value)}" for key, value in values.items()]


def load_with(file: Path | str, *, best: Path | str) -> Config:
    """The composed configuration in `file` with the overrides of the file `best`.

    Raises:
        ValueError: as `load`; if the overrides choose groups of conf/; or if they do not fit.
    """
    values = {}
    for line in read_overrides(best):
        try:
            override = OverridesParser.create().parse_override(line)
        except HydraException as error:
            raise ValueError(f"{best}: {line!r} is no override: {' '.join(str(error).split())}") from error
        if _is_group(override.key_or_group):
            raise ValueError(f"{best}: {line}: {file} is composed already; compose it with: make params O='{line}'")
        values[override.key_or_group] = override.value()
    return validate(changed(read_params(file), values, source=str(best)), source=f"{file} with {best}")


def _extremes(distribution: Any) -> tuple[Any, ...]:
    """Values that must be possible; all, where there are few."""
    return (
        distribution.values if isinstance(distribution, Choice | Grid) else (distribution.at(0.0), distribution.at(1.0))
    )


def _is_group(key: str) -> bool:
    return "." not in key and (config_directory() / key.lstrip("+")).is_dir()


def _misplaced(tune: TuneConfig) -> Iterator[str]:
    """Keys that must not differ between the trials of a search."""
    for key in tune.space:
        for fixed, why in _NOT_TRIED.items():
            if key == fixed or key.startswith(f"{fixed}."):
                yield f"tune.space: {key} {why}: leave it out"
        if key in _TIME and tune.scheduler.type != "none":
            yield f"tune.space: {key}: scheduler = {tune.scheduler.type} compares trials at the same steps"
        if tune.scheduler.type == "pbt" and (not key.startswith(_KEPT_BY_CHECKPOINTS) or key == "optim.type"):
            yield f"tune.space: {key}: scheduler = pbt changes it in mid-training, where a checkpoint would not fit"
        elif tune.scheduler.type == "pbt" and _NEUTRAL.get(key, math.nan) in _extremes(tune.space[key]):
            yield f"tune.space: {key}: scheduler = pbt must not come to {_NEUTRAL[key]:g}, where it does nothing"


def _check_clock(config: Config, tune: TuneConfig) -> None:
    engine, scheduler = config.engine, tune.scheduler
    if not isinstance(scheduler, Asha | Pbt):
        return
    key = "grace_steps" if isinstance(scheduler, Asha) else "interval_steps"
    steps = getattr(scheduler, key) or engine.eval_every
    if engine.eval_every is None or engine.eval_every >= engine.steps:
        raise ValueError(
            f"tune.scheduler = {scheduler.type} looks at trials before their end: set engine.eval_every below "
            f"engine.steps = {engine.steps} (it is {engine.eval_every})"
        )
    assert steps is not None
    if steps % engine.eval_every or steps >= engine.steps:
        raise ValueError(
            f"tune.scheduler.{key} = {steps} is not a multiple of engine.eval_every = {engine.eval_every} below "
            f"engine.steps = {engine.steps}"
        )
