"""Which of the workers' exceptions a user is shown, and which are tried again. The wrappers are Ray Train's own."""

import os
from pathlib import Path

import pytest
import ray
import torch
from ray.exceptions import RayError
from ray.train import ControllerError, WorkerGroupError
from tiny_training import tiny_config, write_shards

from detcore.config import ClusterConfig
from detcore.engine.stall import StalledError
from detcore.launch import ray_train
from detcore.launch.job import Job
from detcore.launch.ray_cluster import gpus_per_worker, ray_cluster, resources, set_timeouts
from detcore.launch.ray_worker import MARK_NAME, check_shared


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


def test_a_ray_that_does_not_come_up_is_one_line_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_busy(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # as ray.init does: nothing more exact

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", too_busy)
    with pytest.raises(TimeoutError, match=r"timed out during startup\. Try again, .* cluster=local"):
        ray_cluster(ClusterConfig()).__enter__()


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


GLOO = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer\n [10.0.0.2]:4711")


def test_a_connection_that_another_rank_closed_is_one_line() -> None:
    alone = ray_train.first_cause(WorkerGroupError("…", {0: GLOO}))
    assert isinstance(alone, ConnectionAbortedError)
    assert "\n" not in str(alone)
    stalled = StalledError("rank 1 hangs")
    assert ray_train.first_cause(WorkerGroupError("…", {0: GLOO, 1: stalled})) is stalled


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ChildProcessError("a worker is lost"), True),
        (StalledError("rank 1 hangs"), True),
        (OSError("the folder is away"), True),
        (RuntimeError("CUDA error: uncorrectable ECC error"), True),
        (torch.OutOfMemoryError("no room"), False),
        (ValueError("model.num_classes"), False),
        (KeyError("a mistake"), False),
        (NotImplementedError("no such operator"), False),
    ],
)
def test_only_what_is_of_the_world_is_tried_again(tmp_path: Path, error: Exception, again: bool) -> None:
    console, failures = tmp_path / ".console", ray_train.Failures(tmp_path / ".console", most=1)
    if again:
        failures.after_exception(None, {1: error, 0: GLOO})
        assert console.read_text() == f"failure 1 of 1: {error}; starting again\n"
        failures.after_exception(None, {1: error})
        assert len(console.read_text().splitlines()) == 1  # there is no second attempt
    else:
        with pytest.raises(type(error)) as caught:
            failures.after_exception(None, {0: GLOO, 1: error})
        assert caught.value is error
        assert not console.exists()


def test_what_is_missing_in_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(ray, "available_resources", lambda: {"CPU": 3.0})
    config = ClusterConfig(num_workers=(2, 3), cpus_per_worker=2, resources_per_worker={"big": 0.5})
    assert resources(config) == (
        "they ask for 2 x (2 CPU, 0.5 big), free in the cluster are 3 of 4 CPU, 0 of 0 GPU, 0 of 0 big"
    )


def test_elastic_workers_get_gpus_where_the_fewest_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"GPU": 3.0})
    assert gpus_per_worker(ClusterConfig(num_workers=(2, 4)), device="auto") == 1


def test_time_outs_are_set_unless_the_environment_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    start, health = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"
    monkeypatch.setattr(os, "environ", {start: "7"})
    set_timeouts(ClusterConfig(stall_timeout_s=None))
    assert (os.environ[start], health in os.environ) == ("7", False)
    set_timeouts(ClusterConfig(stall_timeout_s=30))
    assert (os.environ[start], os.environ[health]) == ("7", "45")


def test_a_node_with_other_folders_is_told_what_to_do(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", train=2, val=1)
    job = Job(config=tiny_config(tmp_path / "run", shards))
    (tmp_path / "run").mkdir()
    for there in (None, "another driver's"):
        if there is not None:
            (tmp_path / "run" / MARK_NAME).write_text(there)
        with pytest.raises(
            ValueError, match=r"^node n7 \(10\.0\.0\.7\) does not share run_dir .*/run with the driver: .*"
        ):
            check_shared(job, "mine", node="n7 (10.0.0.7)")
    (tmp_path / "run" / MARK_NAME).write_text("mine")
    check_shared(job, "mine", node="n7")
    (shards / "dataset.json").unlink()
    with pytest.raises(ValueError, match=r"^node n7 does not have data\.shards .*: data\.shards=s3://BUCKET/NAME$"):
        check_shared(job, "mine", node="n7")
    stored = Job(config=tiny_config(tmp_path / "run", shards).model_copy(update={"data": job.config.data.model_copy(
        update={"shards": "s3://bucket/squares"})}))  # fmt: skip
    check_shared(stored, "mine", node="n7")
