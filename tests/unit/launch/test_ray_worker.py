"""What a worker's first thread sees to while another trains. Without Ray."""

import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from ray.train import PreemptionInfo
from tiny_training import tiny_config

from detcore.engine import FitResult, stall
from detcore.engine.stall import StalledError, StallWatch
from detcore.launch import ray_worker
from detcore.launch.job import Job
from detcore.launch.ray_worker import ATTEMPT_NAME, RayWorker, attended

RESULT = FitResult(step=3, metrics={}, best_step=None, best_metrics={}, model_dir=None, stopped="requested")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setattr(ray_worker, "_preemption", lambda: None)
    return Job(config=tiny_config(tmp_path, tmp_path / "shards"))


def worker(**settings: Any) -> RayWorker:
    return RayWorker(**{"rank": 0, "world_size": 1, "local_rank": 0, "device": torch.device("cpu"), **settings})


def until_asked(job: Job, worker: RayWorker) -> FitResult:
    assert worker.stop.wait(timeout=20)
    return RESULT


def test_the_outcome_is_the_trainings(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_worker, "run_rank", lambda job, worker: RESULT)
    assert attended(job, worker()) is RESULT

    def fail(job: Job, worker: RayWorker) -> FitResult:
        raise TimeoutError("of its own")

    monkeypatch.setattr(ray_worker, "run_rank", fail)
    with pytest.raises(TimeoutError, match="of its own"):
        attended(job, worker())


def test_the_drivers_file_asks_to_stop(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_worker, "run_rank", until_asked)
    (tmp_path / ".stop").touch()
    assert attended(job, worker()) is RESULT
    assert capsys.readouterr().out == "stopping: finishing the step, then a checkpoint\n"


def test_a_nodes_notice_asks_to_stop(
    job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray_worker, "run_rank", until_asked)
    notice = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"a": [2, 3]})
    monkeypatch.setattr(ray_worker, "_preemption", lambda: notice)
    assert attended(job, worker()) is RESULT
    assert "a node of ranks 2, 3 is about to go: finishing the step" in capsys.readouterr().out


def test_a_rank_zero_that_was_replaced_ends_its_process(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException): ...

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(os, "_exit", end)
    never, other = threading.Event(), worker(rank=1)

    def train(job: Job, worker: RayWorker) -> FitResult:
        (tmp_path / ATTEMPT_NAME).write_text("another")
        never.wait(timeout=5)
        return RESULT

    monkeypatch.setattr(ray_worker, "run_rank", train)
    with pytest.raises(Ended):
        attended(job, worker())
    never.set()
    assert attended(job, other) is RESULT  # only rank 0 writes


def test_a_training_that_stands_still_is_left(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "_INTERVAL_SECONDS", 0.02)
    watch = StallWatch(rank=0, world_size=1, store=None, timeout_s=0.5, place="here")
    hung = threading.Event()

    def train(job: Job, worker: RayWorker) -> FitResult:
        for step in (1, 2):
            worker.beat(step, bounded=True)
        hung.wait(timeout=20)
        return RESULT

    monkeypatch.setattr(ray_worker, "run_rank", train)
    with pytest.raises(StalledError, match=r"rank 0 \(process \d+ on here\) has not gone on after step 2 .* train"):
        attended(job, worker(watch=watch))
    watch.stop()
    hung.set()
