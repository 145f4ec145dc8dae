"""`ray start --head` and `ray job submit`, with Ray's token authentication, on the loopback address."""

import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from detcore.toolchain.library import cache_folder

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

PORTS = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
RAY = str(Path(sys.executable).with_name("ray"))


class Head:
    """A cluster of one node, and what a client needs to reach it."""

    def __init__(self, repository: Path, folder: Path, sessions: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "HOME": str(folder),  # the token is kept below it
            "DETCORE_CACHE": str(cache_folder().parent),
            "RAY_AUTH_MODE": "token",
            "RAY_raylet_start_wait_time_s": "180",  # its parts otherwise give each other up where machines are busy
            "RAY_agent_register_timeout_ms": "600000",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(repository),
        }
        subprocess.run([RAY, "get-auth-token", "--generate"], env=self.environment, check=True, capture_output=True)
        ports = _free_ports(len(PORTS))
        self.address = f"http://127.0.0.1:{ports[1]}"
        command = [RAY, "start", "--head", "--block", "--num-cpus=2", "--node-ip-address=127.0.0.1"]
        command += ["--dashboard-host=127.0.0.1", f"--temp-dir={sessions}", "--disable-usage-stats"]
        command += [f"--{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
        self.process = subprocess.Popen(
            command, cwd=folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def submit(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [RAY, "job", "submit", "--address", self.address, "--", *command],
            cwd=self.folder,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            timeout=600,
        )


@pytest.fixture(scope="module")
def head(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    sessions = Path(tempfile.mkdtemp(prefix="ray"))  # short: Ray's sockets lie below it
    head = Head(repository, tmp_path_factory.mktemp("head"), sessions)
    try:
        deadline = time.monotonic() + 300
        while head.submit("true").returncode:
            assert head.process.poll() is None, head.process.communicate()[0]
            assert time.monotonic() < deadline, "the cluster does not take jobs"
            time.sleep(1)
        yield head
    finally:
        head.process.send_signal(signal.SIGTERM)
        head.process.communicate(timeout=120)
        shutil.rmtree(sessions, ignore_errors=True)


def test_a_job_trains_on_the_cluster_it_was_submitted_to(head: Head, repository: Path) -> None:
    small = [f"data.source.{split}={count}" for split, count in (("train", 8), ("val", 4), ("test", 4))]
    done = head.submit(
        "python",
        str(repository / "pipelines" / "train.py"),
        *("engine.steps=2", "engine.batch_size=4", "engine.log_every=1", "tracking.enabled=false"),
        *("cluster.num_workers=2", "cluster.cpus_per_worker=1", f"run_dir={head.folder}/run", *small),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 2/2" in done.stdout
    assert (head.folder / "run" / "model" / "weights.safetensors").is_file()


def test_a_stopped_job_has_saved_and_the_same_command_goes_on(head: Head, repository: Path) -> None:
    run = head.folder / "stopped"
    client = [RAY, "job", "submit", "--address", head.address, "--working-dir", str(repository)]
    client += ["--runtime-env", str(repository / "infra" / "ray" / "runtime_env.yaml")]
    train = ["env", f"DETCORE_GIT_COMMIT={'a' * 40}", "python", "pipelines/train.py", f"run_dir={run}"]
    train += ["engine.steps=2000", "engine.batch_size=4", "engine.log_every=1", "engine.eval_every=null"]
    train += ["engine.checkpoint_every=10000", "cluster.cpus_per_worker=1", f"tracking.uri=sqlite:///{run}/mlflow.db"]
    train += ["data.source.train=8", "data.source.val=4", "data.source.test=4"]
    # What the checkout's copy on the node brings, not what a PYTHONPATH of the cluster has.
    without = {name: value for name, value in head.environment.items() if name != "PYTHONPATH"}

    def submit_and_stop(name: str, *, after: int) -> str:
        command = [*client, "--submission-id", name, "--", *train]
        job = subprocess.Popen(command, env=without, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        history = run / "history.csv"
        while not (history.is_file() and len(history.read_text().splitlines()) > after):
            assert job.poll() is None, job.communicate()[0]
            time.sleep(0.2)
        stop = [RAY, "job", "stop", "--address", head.address, name]
        subprocess.run(stop, env=without, check=True, capture_output=True)
        return job.communicate()[0]

    said = submit_and_stop("first", after=3)
    (saved,) = (run / "checkpoints").iterdir()
    step = int(saved.name.removeprefix("step-"))
    assert step >= 3
    assert f"stopped at step {step} by SIGTERM; the same command goes on from there" in said
    (tracked,) = re.findall(r"MLflow run: (\w+) in sqlite", said)

    again = submit_and_stop("second", after=step + 1)
    assert f"resuming at step {step} of 2000" in again
    assert f"MLflow run: {tracked} in sqlite" in again
    with sqlite3.connect(run / "mlflow.db") as database:
        found = dict(database.execute("select key, value from tags where run_uuid = ?", (tracked,)))
        assert found["mlflow.source.git.commit"] == "a" * 40
        assert database.execute("select status from runs").fetchall() == [("KILLED",)]


def test_a_model_is_measured_reported_and_registered_by_jobs(head: Head, repository: Path) -> None:
    run = head.folder / "whole"
    words = [f"run_dir={run}", f"data.shards={head.folder}/shards", f"tracking.uri=sqlite:///{head.folder}/mlflow.db"]
    words += ["data.source.train=8", "data.source.val=4", "data.source.test=4", "tracking.num_pictures=1"]
    words += ["engine.steps=2", "engine.batch_size=4", "cluster.cpus_per_worker=1"]

    def submit(script: str) -> subprocess.CompletedProcess[str]:
        client = [RAY, "job", "submit", "--address", head.address, "--working-dir", str(repository)]
        # Not where drivers go, which have no CPU or GPU: such a job works in its own process.
        client += ["--entrypoint-num-cpus", "1", "--"]
        command = [*client, "python", f"pipelines/{script}.py", *words]
        return subprocess.run(command, env=head.environment, capture_output=True, text=True, timeout=600)

    early = submit("evaluate")
    assert early.returncode == 1
    assert f"error: {run}/model is no published model: it has no model.json" in early.stdout
    assert "Traceback" not in early.stdout
    said = {}
    for script in ("train", "evaluate", "register", "report"):
        done = submit(script)
        assert done.returncode == 0, done.stdout + done.stderr
        said[script] = done.stdout
    assert "test: box_ap" in said["evaluate"]
    assert "registered: digits-mask-rcnn, version 1" in said["register"]
    assert f"report: {run}/report/report.html" in said["report"]
    assert "These weights are the champion" in said["report"]
    with sqlite3.connect(head.folder / "mlflow.db") as database:
        ((tracked, status),) = database.execute("select run_uuid, status from runs").fetchall()
        assert status == "FINISHED"
        assert database.execute("select run_id, version from model_versions").fetchall() == [(tracked, 1)]
        measured = database.execute("select key from latest_metrics where key like 'test/%'").fetchall()
        assert ("test/box_ap",) in measured


def test_results_in_the_folder_that_goes_with_the_job_are_refused(head: Head, repository: Path) -> None:
    client = [RAY, "job", "submit", "--address", head.address, "--working-dir", str(repository), "--"]
    for script, setting in (("train", "run_dir = runs/"), ("prepare", "data.shards = data/shards/")):
        command = [*client, "python", f"pipelines/{script}.py"]
        done = subprocess.run(command, env=head.environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 1
        assert f"error: {setting}" in done.stdout
        assert "is in the copy of the submitted folder that Ray removes after the job" in done.stdout


def test_an_error_in_a_job_is_one_line(head: Head, repository: Path) -> None:
    done = head.submit("python", str(repository / "pipelines" / "train.py"), "optim.lr=-1")
    assert done.returncode != 0
    assert "error: configuration: optim.lr" in done.stdout
    assert "Traceback" not in done.stdout


def test_without_the_token_nobody_gets_in(head: Head, tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0" * 64)
    done = head.submit("true", HOME=str(tmp_path))
    assert done.returncode != 0
    assert "oken" in done.stdout + done.stderr  # "Invalid token", or the like


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
