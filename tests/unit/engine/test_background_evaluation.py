"""Evaluations that training does not wait for: figures, decisions and resumed runs are those of one that does."""

import csv
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import StopAfter, TinyDetector, checkpoint_of, same, train

from detcore.config import Config
from detcore.engine import FitResult, LocalWorker, Start
from detcore.evaluation import Evaluation, Evaluator

BACKGROUND: dict[str, Any] = {"engine__evaluation": {"in_background": True}, "engine__eval_every": 3}


class Diary:
    """A callback that notes at which of its model's steps it hears of what."""

    def __init__(self, model: TinyDetector) -> None:
        self._model = model
        self.evaluations: list[tuple[int, int]] = []

    def on_start(self, start: Start) -> None: ...

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def on_evaluate(self, step: int, metrics: Mapping[str, float], evaluation: Evaluation) -> None:
        self.evaluations.append((step, self._model.passes))

    def on_end(self, result: FitResult) -> None: ...


def evaluations(config: Config) -> list[dict[str, str]]:
    with (Path(config.run_dir) / "evaluations.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing takes longer than several steps: an evaluation is in flight whenever anything else happens."""
    compute = Evaluator.compute

    def slowly(self: Evaluator) -> Evaluation:
        time.sleep(0.15)
        return compute(self)

    monkeypatch.setattr(Evaluator, "compute", slowly)


def test_steps_go_on_meanwhile(configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Comparing what was found at step 4 begins when step 7 is done, which waiting for it would never let happen."""
    model, reached, compute = TinyDetector(), threading.Event(), Evaluator.compute
    losses = model.losses

    def counted(batch):
        if model.training and model.passes == 7:
            reached.set()
        return losses(batch)

    def after_step_7(self: Evaluator) -> Evaluation:
        assert reached.wait(20)
        return compute(self)

    monkeypatch.setattr(model, "losses", counted)
    monkeypatch.setattr(Evaluator, "compute", after_step_7)
    diary = Diary(model)
    config = configure(**{**BACKGROUND, "engine__eval_every": 4}, engine__checkpoint_every=100)
    train(model, config, callbacks=[diary])
    assert diary.evaluations == [(4, 8), (8, 10), (10, 10)]
    assert [row["step"] for row in evaluations(config)] == ["4", "8", "10"]


def test_what_has_arrived_is_heard_of_when_a_step_logs(configure) -> None:
    model = TinyDetector()
    diary = Diary(model)
    config = configure(**BACKGROUND, engine__checkpoint_every=100, engine__log_every=1, engine__steps=4)
    pause = model.losses
    model.losses = lambda batch: (time.sleep(0.5 if model.training else 0), pause(batch))[1]  # type: ignore[method-assign]
    train(model, config, callbacks=[diary])
    assert diary.evaluations == [(3, 4), (4, 4)]


@pytest.mark.parametrize("changes", [{}, {"engine__ema_decay": 0.9}], ids=["plain", "average"])
def test_as_in_the_foreground(configure, slow: None, changes: dict[str, Any]) -> None:
    runs = [
        configure(run=name, **{**BACKGROUND, **changes, "engine__evaluation": {"in_background": name == "beside"}})
        for name in ("waited", "beside")
    ]
    waited, beside = (train(TinyDetector(), config) for config in runs)
    assert (beside.step, beside.metrics, beside.best_step, beside.best_metrics) == (
        waited.step,
        waited.metrics,
        waited.best_step,
        waited.best_metrics,
    )
    assert evaluations(runs[0]) == evaluations(runs[1])
    published = [load_file(Path(config.run_dir) / "model" / "weights.safetensors") for config in runs]
    assert same(*published)


@pytest.mark.parametrize("stop", [3, 4, 5, 6, 7])  # an evaluation is due at 3, 6, 9; checkpoints at 4, 8
def test_stopped_meanwhile_and_resumed_is_as_never_stopped(configure, slow: None, stop: int) -> None:
    changes = {**BACKGROUND, "engine__checkpoint_every": 4, "engine__ema_decay": 0.9}
    whole, config = configure(run="whole", **changes), configure(**changes)
    expected = train(TinyDetector(), whole)
    model = TinyDetector()
    stopped = train(model, config, worker=StopAfter(model, stop))
    assert (stopped.step, stopped.stopped) == (stop, "requested")
    torch.manual_seed(99)
    assert_same_outcome(train(TinyDetector(), config), expected, config, whole)


@pytest.mark.parametrize("crash", [4, 5, 7])  # the newest checkpoint is of step 3, 4 and 6
def test_killed_meanwhile_and_resumed_is_as_never_stopped(configure, slow: None, crash: int) -> None:
    changes = {**BACKGROUND, "engine__checkpoint_every": 4}
    whole, config = configure(run="whole", **changes), configure(**changes)
    expected = train(TinyDetector(), whole)

    class Killed(LocalWorker):
        def stop_requested(self) -> bool:
            if model.passes == crash:
                raise KeyboardInterrupt
            return False

    model = TinyDetector()
    with pytest.raises(KeyboardInterrupt):
        train(model, config, worker=Killed(device=torch.device("cpu")))
    assert_same_outcome(train(TinyDetector(), config), expected, config, whole)


def assert_same_outcome(result: FitResult, expected: FitResult, config: Config, whole: Config) -> None:
    assert (result.step, result.metrics, result.best_step) == (expected.step, expected.metrics, expected.best_step)
    steps = sorted(int(folder.name[5:]) for folder in (Path(whole.run_dir) / "checkpoints").iterdir())
    assert steps == sorted(int(folder.name[5:]) for folder in (Path(config.run_dir) / "checkpoints").iterdir())
    for step in steps:
        assert same(checkpoint_of(config, step), checkpoint_of(whole, step))
    assert evaluations(config) == evaluations(whole)


@pytest.mark.parametrize("stop", [None, 5, 7, 8])
def test_early_stopping_is_where_the_next_is_due(configure, slow: None, stop: int | None) -> None:
    """None is better than the first, at step 2: the second after it, at 6, is known by 8, stopped before or not."""
    config = configure(
        **{**BACKGROUND, "engine__eval_every": 2},
        optim__lr=1e-12,
        engine__early_stop_patience=2,
        engine__steps=20,
        engine__checkpoint_every=7,
    )
    if stop is not None:
        model = TinyDetector()
        assert train(model, config, worker=StopAfter(model, stop)).stopped == "requested"
    result = train(TinyDetector(), config)
    assert (result.step, result.best_step, result.stopped) == (8, 2, None)
    assert [row["step"] for row in evaluations(config)] == ["2", "4", "6"]
    model = TinyDetector()
    assert train(model, config).step == 8
    assert model.passes == 0


def test_what_goes_wrong_in_the_thread_ends_training(configure, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Evaluator) -> Evaluation:
        raise ValueError("image 7 was not evaluated")

    monkeypatch.setattr(Evaluator, "compute", fails)
    model = TinyDetector()
    with pytest.raises(ValueError, match="image 7 was not evaluated"):
        train(model, configure(**BACKGROUND))
    assert model.passes <= 6


def test_the_weights_beside_their_average(configure) -> None:
    """The last evaluation's raw figures are those of a run that keeps no average."""
    config = configure(engine__ema_decay=0.99, engine__evaluation={"raw_weights": True})
    both = train(TinyDetector(), config).metrics
    raw = train(TinyDetector(), configure(run="raw")).metrics
    assert {name: value for name, value in both.items() if name.startswith("raw_")} == {
        f"raw_{name}": value for name, value in raw.items()
    }
    assert both["val_loss"] != both["raw_val_loss"]
    assert {f"raw_{name}" for name in both if not name.startswith("raw_")} < both.keys()
