"""Ranks that raise, hang or stand still: the others are not left waiting, and it is said who it was."""

import re

import pytest
from fault_table import FaultTable
from fault_trial import Trial
from faulty_training import Blow

from detcore.engine import NonFiniteLossError
from detcore.engine.stall import StalledError

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(900)]

STALL = 20.0
NAMED = (
    r"rank {rank} \(process \d+ on \S+ \(10\.213\.\d+\.\d+\)\) has not (gone on after step 7|been heard of|answered)"
)


def stopped(trial: Trial, table: FaultTable, fault: str, error: BaseException, seconds: float) -> None:
    table.add(fault, f"stopped: {str(error)[:90]}…" if len(str(error)) > 90 else f"stopped: {error}", seconds=seconds)
    assert "\n" not in str(error)
    assert trial.last_checkpoint() == 6
    assert seconds < 60


def test_a_mistake_is_not_tried_again(trial: Trial, table: FaultTable) -> None:
    error, seconds = trial.fails(Blow("refuse"))
    assert isinstance(error, KeyError)
    assert trial.steps_lost_before_the_end() == 0
    stopped(trial, table, "a rank raises KeyError", error, seconds)


def test_nan_on_one_rank(trial: Trial, table: FaultTable) -> None:
    error, seconds = trial.fails(Blow("nan"))
    assert isinstance(error, NonFiniteLossError)
    assert str(error).startswith("step 7: box not finite, on images [")
    assert trial.steps_lost_before_the_end() == 0
    stopped(trial, table, "NaN on one rank", error, seconds)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_is_named(trial: Trial, table: FaultTable, rank: int) -> None:
    trial.cluster.update(max_failures=0, stall_timeout_s=STALL)
    error, seconds = trial.fails(Blow("hang", rank=rank))
    assert isinstance(error, StalledError)
    assert re.match(NAMED.format(rank=rank), str(error)), str(error)
    assert "faulty_training.py" in str(error) and "the other ranks wait" in str(error)
    stopped(trial, table, f"rank {rank} hangs", error, seconds)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_stopped_is_named(trial: Trial, table: FaultTable, rank: int) -> None:
    trial.cluster.update(max_failures=0, stall_timeout_s=STALL)
    error, seconds = trial.fails(Blow("stop", rank=rank))
    assert isinstance(error, StalledError)
    assert re.match(NAMED.format(rank=rank), str(error)), str(error)
    assert "its process is stopped, or its machine or network is gone" in str(error)
    stopped(trial, table, f"SIGSTOP to the process of rank {rank}", error, seconds)
