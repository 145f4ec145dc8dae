"""Which of the workers' exceptions a user is shown. The wrappers are Ray Train's own."""

import pytest
import ray
from ray.exceptions import RayError
from ray.train import ControllerError, WorkerGroupError

from detcore.config import ClusterConfig
from detcore.launch import ray_train
from detcore.launch.ray_cluster import gpus_per_worker, ray_cluster


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


def test_a_dead_worker_and_a_missing_module_are_one_line() -> None:
    died = ray_train.first_cause(WorkerGroupError("…", {1: RayError("killed\n by the kernel")}))
    assert isinstance(died, OSError)
    assert "\n" not in str(died)
    missing = ray_train.first_cause(ControllerError(ModuleNotFoundError("no", name="mymodels")))
    assert isinstance(missing, ValueError)
    assert "'mymodels'" in str(missing)


def test_the_controllers_own_failure_is_unwrapped() -> None:
    wanted = ValueError("inner")
    assert ray_train.first_cause(ControllerError(wanted)) is wanted


@pytest.mark.parametrize(
    ("stated", "device", "present", "expected"),
    [(None, "auto", 2, 1), (None, "auto", 1, 0), (None, "cpu", 8, 0), (0.5, "auto", 0, 0.5), (None, "cuda", 2, 1)],
)
def test_workers_get_a_gpu_each_where_there_are_enough(
    monkeypatch: pytest.MonkeyPatch, stated: float | None, device: str, present: int, expected: float
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": float(present)})
    assert gpus_per_worker(ClusterConfig(num_workers=2, gpus_per_worker=stated), device=device) == expected


@pytest.mark.parametrize(("stated", "device"), [(None, "cuda"), (0, "cuda"), (1, "cpu")])
def test_a_device_that_the_workers_cannot_have_is_an_error(
    monkeypatch: pytest.MonkeyPatch, stated: float | None, device: str
) -> None:
    monkeypatch.setattr(ray, "cluster_resources", dict)
    with pytest.raises(ValueError, match=f"engine.device = {device}"):
        gpus_per_worker(ClusterConfig(num_workers=2, gpus_per_worker=stated), device=device)


def test_a_wrong_address_is_said_at_once() -> None:
    with (
        pytest.raises(ValueError, match=r"no Ray cluster answers at '127\.0\.0\.1:1'"),
        ray_cluster(ClusterConfig(address="127.0.0.1:1")),
    ):
        pass
