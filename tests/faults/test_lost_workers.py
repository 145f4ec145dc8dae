"""Workers, nodes and networks that go away in the middle of a training: it goes on, as if nothing had happened.

Two workers on two of four nodes, each a network namespace; a checkpoint every third step.
"""

import subprocess
import threading
import time

import pytest
import ray
from fault_table import FaultTable
from fault_trial import STEPS, Trial
from faulty_training import HURRY, Blow, passes, when_asked
from node_cluster import NodeCluster
from recovery_phases import Recoveries

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(1800)]

STALL = 15.0


def drain(nodes: NodeCluster, address: str) -> None:
    """A node's notice that it is about to go: what a cloud's or Kubernetes' preemption becomes in Ray."""
    (node,) = (node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeManagerAddress"] == address)
    command = ["ray", "drain-node", "--address", nodes.address, "--node-id", node, "--reason"]
    command += ["DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "30"]
    done = subprocess.run(nodes.inside(0, *command), env=nodes.environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    time.sleep(5)  # until Ray Train has looked


def test_one_after_another(
    trial: Trial,
    table: FaultTable,
    recoveries: Recoveries,
    joined: NodeCluster,
    capsys: pytest.CaptureFixture[str],
) -> None:
    blows = {
        1: ("the clock of rank 1's process is a day late", Blow("clock")),
        4: ("`kill -9` of the worker with rank 1", Blow("kill")),
        7: ("`kill -9` of the worker with rank 0", Blow("kill", rank=0)),
        10: ("a rank raises ConnectionResetError", Blow("raise")),
        13: (f"rank 1 hangs, `stall_timeout_s={STALL:g}`", Blow("hang")),
        16: ("`kill -9` of all of rank 1's node", Blow("ask")),
        19: ("the network of rank 1's node is cut, without a word", Blow("ask")),
        22: ("rank 1's node gives notice (preemption)", Blow("ask")),
    }
    acts = {16: joined.kill, 19: joined.unplug, 22: lambda node: drain(joined, joined.address_of(node))}
    gone: list[int] = []

    def act(step: int, address: str) -> None:
        gone.append(joined.number_of(address))
        acts[step](gone[-1])
        if step == 16:
            joined.start(gone[-1])  # a spare node, later

    for step in acts:
        when_asked(trial.folder, step, lambda address, step=step: act(step, address))
    trial.cluster.update(max_failures=6, stall_timeout_s=STALL)
    try:
        assert trial.train({step: blow for step, (_, blow) in blows.items()}).step == STEPS
    finally:
        for number in gone[1:]:
            joined.restart(number)
    said = capsys.readouterr().out
    assert "failure 1 of 6: a worker is lost" in said
    assert "failure 6 of 6: " in said
    assert "going on from step 23 without the nodes that are about to go" in said
    for step, (fault, _) in blows.items():
        if step in (1, 22):
            lost, seconds = 0, trial.pause(step)
        else:
            lost, fell, back = trial.recovery(step)
            seconds = back - fell
            recoveries.add(fault, joined.training_logs, begin=fell, end=back)
        table.add(fault, "went on, the same weights", steps_lost=lost, seconds=seconds)
        assert lost == (0 if step in (1, 22) else 2)  # no more than since the last checkpoint
    assert trial.as_if_nothing_had_happened()


def test_fewer_and_more_again(trial: Trial, table: FaultTable, recoveries: Recoveries, joined: NodeCluster) -> None:
    """Elastic: three workers, then two where a node is lost and none is left over, then three again."""
    steps = 400  # of a second, until there are three again
    trial.cluster.update(num_workers=[2, 3], resize_check_s=5, max_failures=2, resources_per_worker={"trial": 1})
    trial.changes.update(engine__steps=steps, engine__checkpoint_every=5)
    lost: list[int] = []

    def kill(address: str) -> None:
        lost.append(joined.number_of(address))
        joined.kill(lost[0])

    def wait_for(size: int) -> None:
        while not lost or passes(trial.folder)[-1]["world_size"] != size:
            time.sleep(0.5)

    def come_back() -> None:
        wait_for(2)
        joined.start(lost[0], resources={"trial": 1})
        wait_for(3)
        (trial.folder / HURRY).touch()

    for number in (1, 2, 3):
        joined.kill(number)
    joined.start(1, 2, 3, resources={"trial": 1})
    joined.wait(1, 2, 3)
    when_asked(trial.folder, 7, kill)
    threading.Thread(target=come_back, daemon=True).start()
    assert trial.train({7: Blow("ask")}, seconds=1.0).step == steps
    noted = passes(trial.folder)
    sizes = [int(each["world_size"]) for each in noted]
    grown, shrunk = sizes.index(3, sizes.index(2)), sizes.index(2)
    assert sizes == [3] * shrunk + [2] * (grown - shrunk) + [3] * (len(sizes) - grown)
    assert {each["step"] for each in noted} == set(range(steps))
    for fault, index in (
        ("a node of an elastic training of 3 is killed, and there is no other", shrunk),
        ("the node comes back to the elastic training", grown),
    ):
        before, after = noted[index - 1], noted[index]
        again = int(before["step"]) + 1 - int(after["step"])
        seconds = after["time"] - before["time"]
        table.add(fault, f"went on with {sizes[index]} workers", steps_lost=again, seconds=seconds)
        recoveries.add(fault, joined.training_logs, begin=before["time"], end=after["time"])
        assert 0 <= again <= 5  # no more than since the last checkpoint
