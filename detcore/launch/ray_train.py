"""A training under Ray Train: the driver's side, and each worker's."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import ray.train
import torch
from ray.exceptions import RayTaskError
from ray.train import ControllerError, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer, get_device

from detcore.config import ClusterConfig
from detcore.engine import FitResult
from detcore.launch import console
from detcore.launch.job import Job, run_rank
from detcore.launch.ray_cluster import gpus_per_worker, ray_cluster, resources
from detcore.launch.stopping import FILE_NAME as STOP_FILE_NAME
from detcore.launch.stopping import StopFile

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 60.0


@dataclass(kw_only=True)
class RayWorker:
    """One rank, as Ray Train started it."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    stop_file: Path
    _stop: bool = False
    _looked: float = field(default=float("-inf"))

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Tells Ray's controller and waits for the other ranks to do so. The checkpoint stays in the run's folder."""
        ray.train.report(metrics)

    def stop_requested(self) -> bool:
        # A look at a shared folder can take a millisecond: not at every step.
        now = time.monotonic()
        if not self._stop and now - self._looked >= _POLL_SECONDS:
            self._looked = now
            self._stop = self.stop_file.exists()
        return self._stop


def fit_on_ray(job: Job) -> FitResult:
    """Trains with `job.config.cluster.num_workers` workers and shows rank 0's output here.

    Raises:
        Exception: what the first failing worker raised, after `cluster.max_failures` restarts.
    """
    config, run_dir = job.config, Path(job.config.run_dir)
    cluster = config.cluster
    print(f"starting {cluster.num_workers} {'worker' if cluster.num_workers == 1 else 'workers'} with Ray", flush=True)
    with ray_cluster(cluster):
        gpus = gpus_per_worker(cluster, device=config.engine.device)
        trainer = TorchTrainer(  # Train V2; type checkers see V1 by the same names
            partial(_train, job, console.Terminal.of_this_process()),  # type: ignore[arg-type]
            scaling_config=ScalingConfig(
                num_workers=cluster.num_workers,
                use_gpu=gpus > 0,
                resources_per_worker={"CPU": cluster.cpus_per_worker, **({"GPU": gpus} if gpus else {})},
            ),
            run_config=RunConfig(  # type: ignore[call-arg]
                name=config.name,
                storage_path=_storage(cluster.storage_path, run_dir),
                failure_config=FailureConfig(max_failures=cluster.max_failures),
                logging_config=LoggingConfig(log_level="CRITICAL"),  # errors are raised here, as one
            ),
        )
        with StopFile(run_dir / STOP_FILE_NAME) as stop, console.Relay(run_dir / console.FILE_NAME) as relay:
            result = _run(trainer, relay, cluster)
    # Otherwise the signal came too late to stop anything.
    return replace(result, stopped=stop.received) if result.stopped is not None and stop.received else result


def _storage(stated: str | None, run_dir: Path) -> str:
    if stated is not None and "://" in stated:
        return stated
    return str(run_dir / "ray" if stated is None else Path(stated).absolute())


def _run(trainer: TorchTrainer, relay: console.Relay, cluster: ClusterConfig) -> FitResult:
    # In another thread: in the main one Ray answers Ctrl-C by killing the workers, without a checkpoint.
    with ThreadPoolExecutor(1, thread_name_prefix="detcore-ray") as pool:
        future = pool.submit(trainer.fit)
        begun, patient_until = False, time.monotonic() + _PATIENCE_SECONDS
        while not future.done():
            begun = relay.move() or begun
            if not begun and time.monotonic() > patient_until:  # Ray waits for ever, in case the cluster grows
                patient_until += _PATIENCE_SECONDS
                print(f"nothing heard of the workers yet; {resources(cluster)}", flush=True)
            time.sleep(_POLL_SECONDS)
        try:
            result: FitResult = future.result().return_value  # type: ignore[attr-defined]
            return result
        except (WorkerGroupError, ControllerError) as error:
            cause = first_cause(error)
            if isinstance(cause, (ValueError, OSError)):
                raise cause from None
            raise cause from error


def first_cause(error: BaseException) -> BaseException:
    """What went wrong in a worker, out of the exceptions that Ray wraps it in.

    Of several workers' exceptions it is a ValueError if there is one, and a RuntimeError last: that is how
    torch.distributed says that another rank is gone. A worker that died or never came is a ChildProcessError.
    """
    match error:
        case WorkerGroupError() if error.worker_failures:
            causes = [first_cause(failure) for _, failure in sorted(error.worker_failures.items())]
            return min(causes, key=lambda cause: (not isinstance(cause, ValueError), isinstance(cause, RuntimeError)))
        case ControllerError():
            return first_cause(error.controller_failure)
        case RayTaskError() if isinstance(error.cause, BaseException):
            return first_cause(error.cause)
        case ModuleNotFoundError():
            return ValueError(f"a worker cannot import {error.name!r}: install it on the cluster's machines")
        case _ if type(error).__module__.split(".")[0] == "ray":
            return ChildProcessError(f"a worker is lost: {' '.join(str(error).split())[:500]}")
    return error


def _train(job: Job, terminal: console.Terminal) -> FitResult:
    """What each worker runs."""
    context = ray.train.get_context()
    run_dir = Path(job.config.run_dir)
    worker = RayWorker(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        device=get_device(),
        stop_file=run_dir / STOP_FILE_NAME,
    )
    shown = console.speaking_to(run_dir / console.FILE_NAME, terminal) if worker.rank == 0 else nullcontext()
    with shown:
        return run_rank(job, worker)
