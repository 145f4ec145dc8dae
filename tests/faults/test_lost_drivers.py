"""The program that started a training goes away, and the same command is given again."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from fault_table import FaultTable
from fault_trial import EVERY, STEPS, Trial
from faulty_training import PASSES, passes
from node_cluster import TESTS, NodeCluster

from detcore.launch.ray_worker import MARK_NAME

Drive = Callable[..., subprocess.Popen[str]]
pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(900)]


@pytest.fixture
def drive(nodes: NodeCluster) -> Iterator[Drive]:
    """Starts a driver of a trial's training on the head."""
    with ExitStack() as stack:
        yield lambda trial, **settings: stack.enter_context(killed_at_the_end(_drive(nodes, trial, **settings)))


@contextmanager
def killed_at_the_end(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


def _drive(
    nodes: NodeCluster, trial: Trial, *, on: int = 0, seconds: float = 0.0, **cluster: object
) -> subprocess.Popen[str]:
    """Its process is Python's own: `ip` and `nsenter` become it."""
    words = (str(TESTS / "faulty_driver.py"), str(trial.folder), str(trial.shards), str(seconds), json.dumps(cluster))
    return subprocess.Popen(
        nodes.inside(on, sys.executable, *words),
        env=nodes.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(folder: Path, step: int, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 400
    while not (folder / PASSES).exists() or passes(folder)[-1]["step"] < step:
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_of_a_training(pid: int) -> bool:
    """Whether a process is one of Ray Train's, which take their actor's name."""
    with suppress(psutil.NoSuchProcess):
        return " ".join(psutil.Process(pid).cmdline()).startswith(("ray::RayTrainWorker", "ray::TrainController"))
    return False


def test_the_driver_is_asked_to_go_twice_and_killed(trial: Trial, table: FaultTable, drive: Drive) -> None:
    """One training of four drivers."""
    done, resumed = 0, ""
    for name in ("SIGINT", "SIGTERM"):
        driver = drive(trial, seconds=1.0)
        wait_for_step(trial.folder, done + 3, driver)
        asked = time.time()
        driver.send_signal(getattr(signal, name))
        said, _ = driver.communicate(timeout=200)
        out = time.time() - asked
        assert driver.returncode == 128 + getattr(signal, name), said
        assert resumed in said
        before, done = done, trial.last_checkpoint()
        assert f"ended at step {done}" in said and before + 3 < done < STEPS
        resumed = f"resuming at step {done} of {STEPS}"
        saved = Path(trial.config.run_dir, "checkpoints", f"step-{done:08d}").stat().st_mtime - asked
        assert trial.steps_lost_before_the_end() == 0
        outcome = f"saved at the step's edge after {saved:.1f} s, out after {out:.0f} s; went on, the same weights"
        table.add(f"{name} to the driver, steps of 1 s, and the command again", outcome, steps_lost=0, seconds=saved)
        assert saved < 10

    driver = drive(trial, seconds=1.0)
    wait_for_step(trial.folder, done + 4, driver)
    driver.kill()
    said, _ = driver.communicate()
    assert resumed in said
    killed = time.time()
    again = drive(trial)
    said, _ = again.communicate(timeout=400)
    assert again.returncode == 0, said
    found = re.search(rf"resuming at step (\d+) of {STEPS}", said)
    assert found is not None, said
    last, lost = int(found[1]), trial.steps_lost()
    # The workers went on until Ray ended them.
    seconds = next(each["time"] for each in passes(trial.folder) if each["time"] > killed and each["step"] == last)
    seconds -= killed
    table.add(
        "`kill -9` of the driver, and the command again", "went on, the same weights", steps_lost=lost, seconds=seconds
    )
    assert lost <= EVERY + 1  # one more where it was killed while a checkpoint was being written
    assert trial.as_if_nothing_had_happened()


def test_the_driver_is_asked_to_go_while_it_waits(trial: Trial, table: FaultTable, drive: Drive) -> None:
    """There is no room for its workers, and there never will be."""
    driver = drive(trial, num_workers=2, resources_per_worker={"unobtainable": 1})
    while not Path(trial.config.run_dir, MARK_NAME).exists():
        assert driver.poll() is None, driver.communicate()[0]
        time.sleep(0.05)
    time.sleep(3)
    asked = time.time()
    os.kill(driver.pid, signal.SIGTERM)
    said, _ = driver.communicate(timeout=200)
    seconds = time.time() - asked
    table.add("SIGTERM to a driver that waits for nodes", "out, with one line", seconds=seconds)
    assert said.splitlines()[-1].startswith("error: stopped by SIGTERM: no worker is there to save"), said
    assert driver.returncode == 1
    assert seconds < 60


def test_the_head_is_lost(trial: Trial, table: FaultTable) -> None:
    """With all that ran on it; the driver is on another node. Then there is a new cluster."""
    with NodeCluster(environment={"RAY_gcs_rpc_server_reconnect_timeout_s": "30"}) as nodes:  # half of what Ray has
        nodes.start(1, 2)
        nodes.wait(1, 2)
        with killed_at_the_end(_drive(nodes, trial, on=1, seconds=1.0)) as driver:
            wait_for_step(trial.folder, 7, driver)
            nodes.kill(0)
            lost = time.time()
            said, _ = driver.communicate(timeout=200)
        seconds, last = time.time() - lost, trial.last_checkpoint()
        assert driver.returncode == 1, said
        error = said.splitlines()[-1]
        assert error.startswith(f"error: the head of the cluster ({nodes.address}) has not answered for"), said
        assert last >= 6 and trial.steps_lost_before_the_end() == 0
        assert seconds < 60
        while left := [pid for number in (1, 2) for pid in nodes.processes(number) if is_of_a_training(pid)]:
            assert time.time() - lost < 120, left
            time.sleep(0.5)
        gone = time.time() - lost
    with NodeCluster() as nodes:
        nodes.start(1, 2)
        nodes.wait(1, 2)
        with killed_at_the_end(_drive(nodes, trial)) as again:
            said, _ = again.communicate(timeout=400)
        assert again.returncode == 0, said
    assert f"resuming at step {last} of {STEPS}" in said
    outcome = f"stopped: {error[7:100]}…; its processes gone after {gone:.0f} s; then the same weights"
    table.add("the head's node is killed", outcome, steps_lost=trial.steps_lost(), seconds=seconds)
    assert trial.as_if_nothing_had_happened()
