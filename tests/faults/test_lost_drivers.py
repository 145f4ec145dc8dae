"""The program that started a training goes away, and the same command is given again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fault_table import FaultTable
from fault_trial import STEPS, Trial
from faulty_training import PASSES, passes
from node_cluster import TESTS, NodeCluster

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(400)]


def drive(nodes: NodeCluster, trial: Trial, *, seconds: float = 0.0, **cluster: object) -> subprocess.Popen[str]:
    """A driver of the trial's training on the head. Its process is Python's own: `ip` and `nsenter` become it."""
    words = (str(TESTS / "faulty_driver.py"), str(trial.folder), str(trial.shards), str(seconds), json.dumps(cluster))
    return subprocess.Popen(
        nodes.inside(0, sys.executable, *words),
        env=nodes.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_step(folder: Path, step: int, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not (folder / PASSES).exists() or passes(folder)[-1]["step"] < step:
        assert driver.poll() is None, driver.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_driver_is_killed(trial: Trial, table: FaultTable, nodes: NodeCluster) -> None:
    driver = drive(nodes, trial, seconds=1.0)
    wait_for_step(trial.folder, 7, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    killed = time.time()
    again = drive(nodes, trial)
    said, _ = again.communicate(timeout=200)
    assert again.returncode == 0, said
    assert f"resuming at step 6 of {STEPS}" in said
    lost = trial.steps_lost()
    seconds = next(each["time"] for each in passes(trial.folder) if each["time"] > killed + 1) - killed
    table.add("`kill -9` of the driver, and the command again", "same weights", steps_lost=lost, seconds=seconds)
    assert trial.as_if_nothing_had_happened()
    assert lost <= 3  # the last checkpoint was of step 6


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_the_driver_is_asked_to_go(trial: Trial, table: FaultTable, nodes: NodeCluster, name: str) -> None:
    driver = drive(nodes, trial, seconds=1.0)
    wait_for_step(trial.folder, 4, driver)
    asked = time.time()
    driver.send_signal(getattr(signal, name))
    said, _ = driver.communicate(timeout=100)
    seconds = time.time() - asked
    assert driver.returncode == 128 + getattr(signal, name), said
    step = trial.last_checkpoint()
    assert f"ended at step {step}" in said and 4 <= step < STEPS
    saved = Path(trial.config.run_dir, "checkpoints", f"step-{step:08d}").stat().st_mtime - asked
    again = drive(nodes, trial)
    said, _ = again.communicate(timeout=200)
    assert again.returncode == 0, said
    assert f"resuming at step {step} of {STEPS}" in said
    assert trial.steps_lost() == 0
    outcome = f"saved at the step's edge after {saved:.1f} s, out after {seconds:.0f} s; then the same weights"
    table.add(f"{name} to the driver, steps of 1 s, and the command again", outcome, steps_lost=0, seconds=saved)
    assert trial.as_if_nothing_had_happened()
    assert saved < 10


def test_the_driver_is_asked_to_go_while_it_waits(trial: Trial, table: FaultTable, nodes: NodeCluster) -> None:
    """There is no room for nine workers, and there never will be."""
    driver = drive(nodes, trial, num_workers=2, resources_per_worker={"unobtainable": 1})
    assert driver.stdout is not None
    said = ""
    while "they ask for 2 x (1 CPU, 1 unobtainable), free in the cluster are" not in said:
        assert driver.poll() is None, said
        said += driver.stdout.readline()
    asked = time.time()
    os.kill(driver.pid, signal.SIGTERM)
    said, _ = driver.communicate(timeout=100)
    table.add("SIGTERM to a driver that waits for nodes", "out, with one line", seconds=time.time() - asked)
    assert "error: stopped by SIGTERM: no worker is there to save" in said
    assert driver.returncode == 1
    assert time.time() - asked < 60
