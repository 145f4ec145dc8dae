"""A Ray cluster to train on: the one we are in or are told of, else one of our own on this machine."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from detcore.config import ClusterConfig


@contextmanager
def ray_cluster(config: ClusterConfig) -> Iterator[None]:
    """Inside, Ray is connected; what was started or joined here is left again at the end.

    An existing connection is used as it is. Otherwise `config.address`, then RAY_ADDRESS (which a Ray job sets) is
    joined; without either a cluster starts here, with just the CPUs that the workers ask for.

    Raises:
        ValueError: if there is no cluster at the address, or this machine has fewer GPUs than the workers ask for.
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
        _start(config)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ValueError(f"no Ray cluster answers at {address!r} (cluster.address or RAY_ADDRESS): {error}") from error


def _start(config: ClusterConfig) -> None:
    # One machine is not preempted node by node, and without a dashboard nobody reads the metrics: two processes less.
    _set_defaults(RAY_USAGE_STATS_ENABLED="0", RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0", RAY_TRAIN_METRICS_ENABLED="0")
    ray.init(
        address="local",
        num_cpus=math.ceil(config.num_workers * config.cpus_per_worker),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )


def gpus_per_worker(config: ClusterConfig, *, device: str) -> float:
    """What a worker gets in the connected cluster: as stated, else one GPU where there are enough and `device` allows.

    Raises:
        ValueError: if what is stated contradicts `device`, or CUDA is asked for where there are too few GPUs.
    """
    present = ray.cluster_resources().get("GPU", 0.0)  # type: ignore[no-untyped-call]
    stated = config.gpus_per_worker
    wanted = stated if stated is not None else float(device != "cpu" and present >= config.num_workers)
    if device == "cuda" and wanted == 0:
        raise ValueError(
            f"engine.device = cuda, but the cluster has {present:g} GPUs for {config.num_workers} workers and "
            f"cluster.gpus_per_worker = {stated}"
        )
    if device == "cpu" and wanted > 0:
        raise ValueError(f"engine.device = cpu, but cluster.gpus_per_worker = {stated:g}")
    return wanted


def _set_defaults(**settings: str) -> None:
    for name, value in settings.items():
        os.environ.setdefault(name, value)
