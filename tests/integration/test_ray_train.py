"""Two workers under Ray Train, on one cluster for all tests here. gloo, CPU."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_training import TinyDetector, tiny_config, write_shards

from detcore.config import ClusterConfig, Config
from detcore.data import Sample
from detcore.launch.training import train

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

TWO = ClusterConfig(type="ray", num_workers=2, cpus_per_worker=1)
STEPS = 30


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    from detcore.launch.ray_cluster import ray_cluster

    with ray_cluster(TWO):
        yield


def configuration(tmp_path: Path, **changes: object) -> Config:
    shards = write_shards(tmp_path / "shards")
    return tiny_config(
        tmp_path / "run",
        shards,
        cluster=TWO.model_dump(),
        tracking__enabled=False,
        engine__steps=STEPS,
        engine__eval_every=None,
        engine__log_every=1,
        **changes,
    )


def slowly(sample: Sample, rng: np.random.Generator) -> Sample:
    time.sleep(0.05)  # so that there is a step left when the signal comes
    return sample


def interrupt_when(path: Path, *, lines: int) -> None:
    """Ctrl-C for this process as soon as a file has so many lines."""

    def watch() -> None:
        while not path.is_file() or len(path.read_text().splitlines()) < lines:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=watch, daemon=True).start()


def test_interrupted_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A module and a function that are no part of detcore travel to the workers.
    config, run_dir = configuration(tmp_path), tmp_path / "run"
    interrupt_when(run_dir / "history.csv", lines=4)
    stopped = train(config, model=TinyDetector(), transform=slowly)
    assert stopped.stopped == "SIGINT"
    assert stopped.model_dir is None
    assert 3 <= stopped.step < STEPS
    assert (run_dir / "checkpoints" / f"step-{stopped.step:08d}" / "manifest.json").is_file()
    assert "step 1/30" in capsys.readouterr().out

    # One process goes on where two workers stopped.
    config = config.model_copy(update={"cluster": ClusterConfig(type="local")})
    result = train(config, model=TinyDetector(), transform=slowly)
    assert (result.step, result.stopped) == (STEPS, None)
    assert f"resuming at step {stopped.step} of {STEPS}" in capsys.readouterr().out
    assert (run_dir / "model" / "weights.safetensors").is_file()
    steps = [int(line.split(",")[0]) for line in (run_dir / "history.csv").read_text().splitlines()[1:]]
    assert steps == list(range(1, STEPS + 1))


def test_a_workers_error_is_the_users_one_line(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    with pytest.raises(ValueError) as raised:
        train(config, model=TinyDetector(num_classes=5))
    assert "5" in str(raised.value)
    assert "2 classes" in str(raised.value)
    assert "\n" not in str(raised.value)
