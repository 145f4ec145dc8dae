"""A training's driver while the workers are not there yet, and when the cluster's head goes away; without a cluster."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from detcore.config import ClusterConfig
from detcore.engine import FitResult
from detcore.launch import ray_head, ray_train
from detcore.launch.console import Relay, say_to
from detcore.launch.ray_head import HeadWatch
from detcore.launch.stopping import StopFile


class Listening:
    """A head that takes connections until it is closed."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"


class Trainer:
    """Trains until it is let go."""

    def __init__(self) -> None:
        self.let_go = threading.Event()

    def fit(self) -> SimpleNamespace:
        self.let_go.wait(30)
        stopped = FitResult(step=7, metrics={}, best_step=None, best_metrics={}, model_dir=None, stopped="requested")
        return SimpleNamespace(return_value=stopped)


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    head = Listening()
    monkeypatch.setattr(ray_head, "_INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(ray_train, "_HEAD_SECONDS", 0.3)
    monkeypatch.setattr(ray_head.ray, "get_runtime_context", lambda: SimpleNamespace(gcs_address=head.address))
    yield head
    head.socket.close()


@pytest.fixture
def stop(tmp_path: Path) -> Iterator[StopFile]:
    with StopFile(tmp_path / ".stop") as stop:
        yield stop


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    with Relay(tmp_path / ".console") as relay:
        yield relay


def test_a_head_that_answers_is_not_silent(listening: Listening) -> None:
    with HeadWatch() as head:
        time.sleep(0.5)
        assert head.silent_for() == 0.0
        listening.socket.close()
        deadline = time.monotonic() + 30
        while head.silent_for() < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_the_workers_save_when_the_head_is_gone(
    listening: Listening, stop: StopFile, relay: Relay, tmp_path: Path
) -> None:
    trainer = Trainer()

    def leave_when_asked() -> None:
        while not (tmp_path / ".stop").exists():
            time.sleep(0.01)
        trainer.let_go.set()

    threading.Thread(target=leave_when_asked, daemon=True).start()
    listening.socket.close()
    attempt = ray_train._Attempt(trainer)  # type: ignore[arg-type]
    with (
        HeadWatch() as head,
        pytest.raises(ConnectionError, match=rf"^the head .* \({head.address}\) .*; saved at step 7: "),
    ):
        attempt.result(relay, ClusterConfig(), stop, head)


def test_workers_that_do_not_answer_are_left_alone(listening: Listening, stop: StopFile, relay: Relay) -> None:
    listening.socket.close()
    trainer = Trainer()
    attempt = ray_train._Attempt(trainer)  # type: ignore[arg-type]
    with HeadWatch() as head, pytest.raises(ConnectionError, match="the last checkpoint is kept"):
        attempt.result(relay, ClusterConfig(), stop, head)
    trainer.let_go.set()
    attempt.leave()
    assert not attempt._thread.is_alive()


def test_a_stop_is_at_once_while_no_worker_has_begun(
    listening: Listening, stop: StopFile, relay: Relay, tmp_path: Path
) -> None:
    trainer = Trainer()
    stop.received = "SIGTERM"
    attempt = ray_train._Attempt(trainer)  # type: ignore[arg-type]
    with HeadWatch() as head:
        with pytest.raises(InterruptedError, match="stopped by SIGTERM: no worker is there to save"):
            attempt.result(relay, ClusterConfig(), stop, head)
        say_to(tmp_path / ".console", "training on 16 images")  # now there is one, and it is waited for
        threading.Timer(0.5, trainer.let_go.set).start()
        assert attempt.result(relay, ClusterConfig(), stop, head).step == 7
