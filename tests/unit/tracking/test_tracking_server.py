"""A real server that is down when training begins, comes up, goes down and comes back."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from tracking_samples import MakeConfig, MakeModel, start_of

from detcore.evaluation import save_pr_curve
from detcore.tracking import TrackingCallback, close_run, open_run, register, resolve
from detcore.tracking.client import connect

pytestmark = pytest.mark.slow


class Server:
    """`mlflow server` on a port of this machine, with its files in `folder`."""

    def __init__(self, uri: str, folder: Path) -> None:
        self._uri = uri
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        port = self._uri.rpartition(":")[2]
        store = ["--backend-store-uri", f"sqlite:///{self._folder}/server.db", "--workers", "1"]
        artifacts = ["--artifacts-destination", str(self._folder / "artifacts")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--port", port, *store, *artifacts],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        wait_for(self._healthy)

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 15)
            self._process.wait(30)
            self._process = None

    def _healthy(self) -> bool:
        try:
            return requests.get(f"{self._uri}/health", timeout=2).ok
        except requests.RequestException:
            return False


def wait_for(condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.1)


@pytest.fixture
def server(closed_port: str, tmp_path: Path) -> Iterator[Server]:
    server = Server(closed_port, tmp_path)
    yield server
    server.stop()


def test_a_training_outlives_its_server(
    make_config: MakeConfig,
    make_model: MakeModel,
    dataset: dict[str, Any],
    closed_port: str,
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = make_config(uri=closed_port)
    buffer = Path(config.run_dir, "tracking-buffer.jsonl")
    handle = open_run(config, dataset=dataset)
    with TrackingCallback(handle, save_curve=save_pr_curve) as callback:
        callback.on_start(start_of(config))
        callback.on_log(1, {"loss": 3.0})
        wait_for(buffer.exists)
        server.start()
        wait_for(lambda: not buffer.exists())
        server.stop()
        callback.on_log(2, {"loss": 2.0})
        wait_for(buffer.exists)
        server.start()
        callback.on_log(3, {"loss": 1.0})
        callback.on_end(SimpleNamespace(model_dir=make_model(config), best_step=3))
    close_run(handle, "FINISHED")
    assert not buffer.exists()

    client = connect(closed_port)
    registered = register(make_model(config), config=config)
    version = client.get_model_version(registered.name, "1")
    run = client.get_run(str(version.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.lr"] == "0.01"
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [
        (1, 3.0),
        (2, 2.0),
        (3, 1.0),
    ]
    assert run.outputs is not None
    assert len(run.outputs.model_outputs) == 1, "registering takes the model that the training logged"

    monkeypatch.setenv("DETCORE_CACHE", str(tmp_path / "cache"))
    folder = resolve(f"{registered.name}@champion", uri=closed_port)
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "weights.safetensors"]
    weights = (folder / "weights.safetensors").read_bytes()
    assert weights == (make_model(config) / "weights.safetensors").read_bytes()
    server.stop()
    with pytest.raises(ConnectionError, match="cannot be reached"):
        resolve(f"{registered.name}@champion", uri=closed_port)
