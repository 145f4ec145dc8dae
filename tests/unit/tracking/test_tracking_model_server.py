"""`mlflow models serve` of a registered model, as curl meets it."""

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image
from tracking_samples import MakeConfig, MakeModel

import detcore
from detcore.tracking import register

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    path = tmp_path / "scene.png"
    Image.fromarray(np.random.default_rng(3).integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def invocations(
    make_config: MakeConfig, make_model: MakeModel, store: str, repository: Path, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    """The address that takes images, and the model's name."""
    config = make_config()
    name = f"{register(make_model(config), config=config).name}@champion"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # MLflow starts `uvicorn` by name
    options = ("--env-manager", "local", "--port", str(port))
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", f"models:/{name}", *options],
        env={**os.environ, "MLFLOW_TRACKING_URI": store, "PYTHONPATH": str(repository), "PATH": path},
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not answers(f"http://127.0.0.1:{port}/ping"):
            assert server.poll() is None and time.monotonic() < deadline
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/invocations", name
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


def answers(address: str) -> bool:
    try:
        return requests.get(address, timeout=5).ok
    except requests.RequestException:
        return False


def test_what_clients_send(
    invocations: tuple[str, str], photograph: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, name = invocations
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    expected: Any = detcore.load(name).predict(photograph, score_threshold=0.0)
    encoded = base64.b64encode(photograph.read_bytes()).decode()
    for body in (
        {"inputs": [encoded]},
        {"dataframe_split": {"columns": ["image"], "data": [[encoded]]}},
        {"dataframe_records": [{"image": encoded}]},
        {"instances": [{"image": encoded}]},
    ):
        answer = requests.post(address, json=body | {"params": {"score_threshold": 0.0}}, timeout=60)
        assert answer.status_code == 200, answer.text
        rows = answer.json()["predictions"]
        boxes = [[row[side] for side in ("x_min", "y_min", "x_max", "y_max")] for row in rows]
        np.testing.assert_allclose(boxes, expected.boxes_xyxy, atol=1e-3)
        assert [row["class_name"] for row in rows] == list(expected.class_names)

    for body, reason in (
        ({"inputs": [str(photograph)]}, "is not base64"),
        ({"dataframe_split": {"columns": ["path"], "data": [[str(photograph)]]}}, "reads no files for its clients"),
        ({"inputs": ["AAAA"]}, "of no known format"),
        ({"inputs": [encoded], "params": {"score_threshold": 7}}, "is not between 0 and 1"),
    ):
        refused = requests.post(address, json=body, timeout=60)
        assert refused.status_code == 400
        assert reason in refused.json()["message"] and "stack_trace" not in refused.json()
    assert requests.post(address, json={"inputs": [encoded]}, timeout=60).status_code == 200
