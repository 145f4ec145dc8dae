"""A training on several nodes to which one thing happens, and what became of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from faulty_training import Blow, FaultyDetector, passes
from tiny_training import checkpoint_of, same, tiny_config

from detcore.config import Config
from detcore.engine import FitResult
from detcore.engine.checkpoint import CheckpointFolder

STEPS = 25
EVERY = 3
"""Steps between checkpoints."""


@dataclass(kw_only=True)
class Trial:
    """A training of two workers on two of the nodes, to which one thing happens.

    Attributes:
        folder: the test's own.
        undisturbed: the same training to which nothing happened.
    """

    folder: Path
    shards: Path
    undisturbed: Config | None
    cluster: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        cluster = {"type": "ray", "num_workers": 2, "placement": "strict_spread", "max_failures": 1, **self.cluster}
        return tiny_config(
            self.folder / "run",
            self.shards,
            **{
                "cluster": cluster,
                "tracking__enabled": False,
                "engine__eval_every": None,
                "engine__checkpoint_every": EVERY,
                "engine__steps": STEPS,
                **self.changes,
            },
        )

    def train(self, blows: Mapping[int, Blow] | None = None, *, seconds: float = 0.0) -> FitResult:
        from detcore.launch.training import train

        return train(self.config, model=FaultyDetector(self.folder, blows or {}, seconds=seconds))

    def steps_lost(self) -> int:
        """Steps that were done twice; all were done."""
        steps = [each["step"] for each in passes(self.folder)]
        assert set(steps) == set(range(STEPS))
        return len(steps) - STEPS

    def steps_lost_before_the_end(self) -> int:
        """The same of a training that did not come to its end."""
        steps = [each["step"] for each in passes(self.folder)]
        return len(steps) - len(set(steps))

    def recovery(self, step: int) -> tuple[int, float, float]:
        """Of what fell in a step: how many steps were done twice, when it fell, and when the next step began."""
        noted = passes(self.folder)
        last = next(index for index, each in enumerate(noted) if each["step"] == step)
        after = noted[last + 1]
        return int(step + 1 - after["step"]), noted[last]["time"], after["time"]

    def pause(self, step: int) -> float:
        """Seconds between the beginnings of a step and the next, of which neither was done twice."""
        times = {each["step"]: each["time"] for each in passes(self.folder)}
        return times[step + 1] - times[step]

    def as_if_nothing_had_happened(self) -> bool:
        """Weights, optimiser, generators and curves, to the last bit."""
        assert self.undisturbed is not None
        return same(checkpoint_of(self.config, STEPS), checkpoint_of(self.undisturbed, STEPS))

    def fails(self, blow: Blow, *, at: int = 7) -> tuple[BaseException, float]:
        """What the training ends with, and how many seconds after the last step."""
        with pytest.raises(Exception) as caught:
            self.train({at: blow})
        return caught.value, time.time() - passes(self.folder)[-1]["time"]

    def last_checkpoint(self) -> int:
        """The step of the newest, which is whole."""
        found = CheckpointFolder(Path(self.config.run_dir, "checkpoints"), keep=2, say=pytest.fail).newest()
        assert found is not None
        return found.step
