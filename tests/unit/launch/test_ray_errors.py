"""Which of the workers' exceptions a user is shown. The wrappers are Ray Train's own."""

import pytest

ray_train = pytest.importorskip("detcore.launch.ray_train")

from ray.train import ControllerError, WorkerGroupError  # noqa: E402


def test_a_value_error_goes_before_what_it_caused_elsewhere() -> None:
    wanted = ValueError("model.num_classes is 5, but the data has 10 classes")
    failures = {0: RuntimeError("rank 1 is gone"), 1: wanted, 2: ConnectionError("reset")}
    assert ray_train.first_cause(WorkerGroupError("…", failures)) is wanted


def test_a_lost_connection_is_the_last_guess() -> None:
    wanted = KeyError("bug")
    assert ray_train.first_cause(WorkerGroupError("…", {0: RuntimeError("peer closed"), 3: wanted})) is wanted


def test_the_lowest_rank_speaks_for_equals() -> None:
    first, second = ValueError("a"), ValueError("b")
    assert ray_train.first_cause(WorkerGroupError("…", {1: second, 0: first})) is first


def test_the_controllers_own_failure_is_unwrapped() -> None:
    wanted = ValueError("inner")
    assert ray_train.first_cause(ControllerError(wanted)) is wanted
