"""A Ray cluster to train on: the one we are in or are told of, else one of our own on this machine."""

import logging
import math
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from detcore.config import ClusterConfig

_PROBE_SECONDS = 5.0
_DRIVER_CPUS = 0.01
"""It only waits, but Ray counts what it starts."""


@contextmanager
def ray_cluster(config: ClusterConfig, *, trainings: int = 1) -> Iterator[None]:
    """Inside, Ray is connected; what was started or joined here is left again at the end.

    An existing connection is used as it is. Otherwise `config.address`, then RAY_ADDRESS (which a Ray job sets) is
    joined; without either a cluster starts here, with just the CPUs that the workers of so many trainings ask for.

    Raises:
        ValueError: if there is no cluster at the address, or this machine has fewer GPUs than the workers ask for.
        TimeoutError: if Ray does not come up here.
    """
    if ray.is_initialized():
        yield
        return
    # Without these Ray prints a worker's lines twice, changes its working folder, and files detcore's warnings away.
    _set_defaults(
        RAY_TRAIN_ENABLE_PRINT_PATCH="0", RAY_CHDIR_TO_TRIAL_DIR="0", RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING="0"
    )
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address:
        _join(address)
    else:
        _start(config, trainings)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():
            # Ray itself tries for four minutes, then ends the process.
            socket.create_connection((host.strip("[]"), int(port)), timeout=_PROBE_SECONDS).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except OSError as error:
        raise ValueError(f"no Ray cluster answers at {address!r} (cluster.address or RAY_ADDRESS): {error}") from error


def _start(config: ClusterConfig, trainings: int) -> None:
    # One machine is not preempted node by node, and without a dashboard nobody reads the metrics: two processes less.
    _set_defaults(RAY_USAGE_STATS_ENABLED="0", RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0", RAY_TRAIN_METRICS_ENABLED="0")
    workers = trainings * config.most_workers
    with _same_import_path(), _started_in_time():
        ray.init(
            address="local",
            num_cpus=math.ceil(workers * config.cpus_per_worker + trainings * driver_cpus(config)),
            resources={kind: workers * each for kind, each in config.resources_per_worker.items()},
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )


def driver_cpus(config: ClusterConfig) -> float:
    """What the driver of a training asks for where it is one of several on the cluster; a lone worker is its own."""
    return _DRIVER_CPUS if config.most_workers > 1 else 0.0


@contextmanager
def _started_in_time() -> Iterator[None]:
    """Ray's processes have half a minute to come up, which a machine with much else to do may not give them."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:  # which is what Ray raises then
            raise
        raise TimeoutError(
            f"Ray did not start on this machine, which may be too busy: {' '.join(str(error).split())} "
            "Try again, or train without Ray: cluster=local"
        ) from error


@contextmanager
def _same_import_path() -> Iterator[None]:
    """Processes started inside import from where this one does; Ray by itself passes on only the script's folder."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def gpus_per_worker(config: ClusterConfig, *, device: str) -> float:
    """What a worker gets in the connected cluster: as stated, else one GPU where there are enough and `device` allows.

    Raises:
        ValueError: if what is stated contradicts `device`, or CUDA is asked for where there are too few GPUs.
    """
    present = ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    stated = config.gpus_per_worker
    wanted = stated if stated is not None else float(device != "cpu" and present >= config.least_workers)
    if device == "cuda" and wanted == 0:
        raise ValueError(
            f"engine.device = cuda, but the cluster has {present:g} GPUs for {config.least_workers} workers and "
            f"cluster.gpus_per_worker = {stated}"
        )
    if device == "cpu" and wanted > 0:
        raise ValueError(f"engine.device = cpu, but cluster.gpus_per_worker = {stated:g}")
    return wanted


def room_for(config: ClusterConfig, *, gpus: float) -> int:
    """How many trainings the connected cluster has room for at once, if nobody else uses it.

    Args:
        gpus: of each worker.

    Raises:
        ValueError: if there is none for a single one.
    """
    each = {"CPU": config.cpus_per_worker, "GPU": gpus, **config.resources_per_worker}
    present = ray.cluster_resources()  # type: ignore[no-untyped-call]
    asked = {kind: config.least_workers * number for kind, number in each.items() if number}
    asked["CPU"] += driver_cpus(config)
    room = min(int(present.get(kind, 0.0) / number + 1e-6) for kind, number in asked.items())
    if room < 1:
        raise ValueError(f"no room for a training: {resources(config)}; set cluster.num_workers or cpus_per_worker")
    return room


def resources(config: ClusterConfig) -> str:
    """What the workers ask for and what there is, in words."""
    free, total = ray.available_resources(), ray.cluster_resources()  # type: ignore[no-untyped-call]
    asked = {"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker or 0.0, **config.resources_per_worker}
    each = ", ".join(f"{number:g} {kind}" for kind, number in asked.items() if number)
    there = ", ".join(f"{free.get(kind, 0.0):g} of {total.get(kind, 0.0):g} {kind}" for kind in asked)
    return f"they ask for {config.least_workers} x ({each}), free in the cluster are {there}"


def set_timeouts(config: ClusterConfig) -> None:
    """What Ray Train reads from the environment, as `config` has it; what is set there already stays.

    Ray's own defaults take more than a minute to go on with fewer nodes, and ten to miss a worker that is stopped.
    """
    _set_defaults(
        RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S=f"{config.start_timeout_s:g}",
        RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="1",
        RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S="2",
    )
    if config.stall_timeout_s is not None:
        # Later than a worker's own watch, which has more to say.
        _set_defaults(RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S=f"{config.stall_timeout_s + 15:g}")


def _set_defaults(**settings: str) -> None:
    for name, value in settings.items():
        os.environ.setdefault(name, value)
