"""Workers, nodes and networks that go away in the middle of a training: it goes on, as if nothing had happened.

Two workers on two of four nodes, each a network namespace; a checkpoint every third step, and the fault in the eighth.
"""

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
from fault_table import FaultTable
from fault_trial import STEPS, Trial
from faulty_training import ANSWERED, ASKED, passes
from node_cluster import NodeCluster

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(300)]


def when_asked(folder: Path, act: Callable[[str], None]) -> threading.Thread:
    """As soon as a rank asks, acts on its node's address and lets the rank go on, if it still can."""

    def wait() -> None:
        while not (folder / ASKED).exists():
            time.sleep(0.05)
        act(json.loads((folder / ASKED).read_text())["address"])
        (folder / ANSWERED).touch()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def went_on(trial: Trial, table: FaultTable, fault: str, *, most_seconds: float = 60.0) -> None:
    lost, seconds = trial.steps_lost(), trial.seconds_to_recover()
    table.add(fault, "went on, the same weights", steps_lost=lost, seconds=seconds)
    assert trial.as_if_nothing_had_happened()
    assert lost <= 2  # the last checkpoint was of step 6
    assert seconds < most_seconds


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_is_killed(trial: Trial, table: FaultTable, rank: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert trial.train("kill", rank=rank).step == STEPS
    assert "failure 1 of 1: a worker is lost" in capsys.readouterr().out
    went_on(trial, table, f"`kill -9` of the worker with rank {rank}")


def test_a_node_is_killed(trial: Trial, table: FaultTable, joined: NodeCluster) -> None:
    lost = []

    def kill(address: str) -> None:
        lost.append(joined.number_of(address))
        joined.kill(lost[0])

    when_asked(trial.folder, kill)
    try:
        assert trial.train("ask").step == STEPS
    finally:
        joined.restart(lost[0])
    went_on(trial, table, "`kill -9` of a node, raylet and all, with the worker of rank 1")


def test_a_node_loses_its_network(trial: Trial, table: FaultTable, joined: NodeCluster) -> None:
    lost = []

    def unplug(address: str) -> None:
        lost.append(joined.number_of(address))
        joined.unplug(lost[0])

    when_asked(trial.folder, unplug)
    try:
        assert trial.train("ask").step == STEPS
    finally:
        joined.restart(lost[0])
    went_on(trial, table, "the network of rank 1's node is cut, without a word", most_seconds=100)


def test_a_node_gives_notice(trial: Trial, table: FaultTable, joined: NodeCluster) -> None:
    """What a cloud's or Kubernetes' preemption becomes in Ray. Not a step is lost, nor an attempt counted."""
    lost = []

    def drain(address: str) -> None:
        (node,) = (node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == address)
        lost.append(joined.number_of(address))
        reason = ("--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot")
        command = ("ray", "drain-node", "--address", joined.address, "--node-id", node, *reason)
        done = subprocess.run(
            joined.inside(0, *command, "--deadline-remaining-seconds", "30"),
            env=joined.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    trial.cluster["max_failures"] = 0
    asking = when_asked(trial.folder, drain)
    try:
        result = trial.train("ask", seconds=1.0)
    finally:
        asking.join()
        joined.restart(lost[0])
    assert result.step == STEPS
    assert trial.steps_lost() == 0
    went_on(trial, table, "a node gives notice (preemption)")


def test_fewer_and_more_again(trial: Trial, table: FaultTable, joined: NodeCluster) -> None:
    """Elastic: three workers, then two where a node is lost and none is left over, then three again."""
    trial.cluster.update(num_workers=[2, 3], resize_check_s=5, max_failures=2, resources_per_worker={"trial": 1})
    trial.changes["engine__steps"] = 60
    lost = []

    def kill(address: str) -> None:
        lost.append(joined.number_of(address))
        joined.kill(lost[0])

    def come_back() -> None:
        while not any(each["world_size"] == 2 for each in passes(trial.folder)):
            time.sleep(0.5)
        joined.start(lost[0], resources={"trial": 1})

    for number in (1, 2, 3):
        joined.kill(number)
        joined.start(number, resources={"trial": 1})
    when_asked(trial.folder, kill)
    threading.Thread(target=come_back, daemon=True).start()
    assert trial.train("ask", seconds=1.0).step == 60
    sizes = [int(each["world_size"]) for each in passes(trial.folder)]
    changes = [size for index, size in enumerate(sizes) if index == 0 or sizes[index - 1] != size]
    assert changes == [3, 2, 3]
    times = [each["time"] for each in passes(trial.folder)]
    shrunk = sizes.index(2)
    table.add(
        "a node of an elastic training is killed, and comes back",
        "went on with 2 of 3 workers, then with 3",
        steps_lost=len(sizes) - 60,
        seconds=times[shrunk] - times[shrunk - 1],
    )
    assert times[shrunk] - times[shrunk - 1] < 60
