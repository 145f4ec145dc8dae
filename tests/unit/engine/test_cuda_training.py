"""What training leaves to threads and to pinned memory, on a GPU: the same as if it waited."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import StopAfter, TinyDetector, checkpoint_of, same, train

from detcore.config import Config
from detcore.engine import LocalWorker
from detcore.engine.checkpoint import Checkpoint
from detcore.engine.saving import HostCopy

pytestmark = pytest.mark.gpu

OPTIMIZERS: list[dict[str, Any]] = [{}, {"optim__type": "adamw", "engine__ema_decay": 0.9}]
EVERY: dict[str, Any] = {"engine__device": "cuda", "engine__keep_every": 3, "engine__eval_every": 3}


@pytest.fixture(autouse=True)
def deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trainings are compared to the last bit."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


def worker() -> LocalWorker:
    return LocalWorker(device=torch.device("cuda"))


def evaluations(config: Config) -> list[dict[str, str]]:
    with (Path(config.run_dir) / "evaluations.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_copy_is_of_before_what_is_queued_behind_it() -> None:
    """A long product is queued before the copy, and the tensor changes behind it: the copy has what lay between."""
    factor = torch.eye(4096, device="cuda")
    weights = torch.arange(4096.0, device="cuda").repeat(4096, 1)
    value = weights
    for _ in range(50):
        value = value @ factor
    host = HostCopy()
    copy = host.of(Checkpoint(step=1, weights={"value": value}, average=None, tensors={}, record={}))
    value.zero_()
    host.wait()
    assert copy.weights["value"].is_pinned()
    assert torch.equal(copy.weights["value"], weights.cpu())
    assert not value.any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "adamw and average"])
def test_nothing_waited_for_changes_nothing(configure, optimizer: dict[str, Any]) -> None:
    waited = configure(run="waited", engine__async_checkpoints=False, **EVERY, **optimizer)
    behind = configure(run="behind", engine__evaluation={"in_background": True}, **EVERY, **optimizer)
    for config in (waited, behind):
        train(TinyDetector(), config, worker=worker())
    for step in (3, 6, 9):
        for part in ("training", *(path.name for path in Path(behind.run_dir).glob("checkpoints/*/*.safetensors"))):
            assert same(checkpoint_of(behind, step)[part], checkpoint_of(waited, step)[part])
    assert evaluations(behind) == evaluations(waited)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "adamw and average"])
def test_stopped_and_gone_on_with(configure, optimizer: dict[str, Any]) -> None:
    whole, stopped = (configure(run=run, **EVERY, **optimizer) for run in ("whole", "stopped"))
    train(TinyDetector(), whole, worker=worker())
    model = TinyDetector()
    first = train(model, stopped, worker=StopAfter(model, 5, device=torch.device("cuda")))
    assert first.stopped
    assert train(TinyDetector(), stopped, worker=worker()).step == 10
    for step in (6, 9):
        assert same(checkpoint_of(stopped, step), checkpoint_of(whole, step))
