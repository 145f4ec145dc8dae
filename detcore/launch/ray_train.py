"""A training under Ray Train: the driver's side. What runs in the workers is in ray_worker.py."""

import threading
import time
import uuid
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from ray.exceptions import RayTaskError
from ray.train import (
    ControllerError,
    FailureConfig,
    LoggingConfig,
    Result,
    RunConfig,
    ScalingConfig,
    UserCallback,
    WorkerGroupError,
)
from ray.train.torch import TorchTrainer

from detcore.config import ClusterConfig
from detcore.launch import console
from detcore.launch.ray_cluster import gpus_per_worker, ray_cluster, resources, set_timeouts
from detcore.launch.ray_head import RECONNECT_SECONDS, HeadWatch
from detcore.launch.ray_torch import NodesNetwork
from detcore.launch.stopping import FILE_NAME as STOP_FILE_NAME
from detcore.launch.stopping import StopFile

# Ray's controller imports this file for `Failures`, and the workers wait for it: not for these rooms, too.
if TYPE_CHECKING:
    from detcore.engine import FitResult
    from detcore.launch.job import Job

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 30.0
_AGAIN = "starting again"
_LEAVE_SECONDS = 5.0
_HEAD_SECONDS = RECONNECT_SECONDS / 4
"""After so long without the head the workers are asked to save and leave, after twice as long they are left alone."""
_AFTERMATH = (ConnectionAbortedError, RuntimeError)


def fit_on_ray(job: "Job") -> "FitResult":
    """Trains with `job.config.cluster.num_workers` workers and shows rank 0's output here.

    Workers that were lost are replaced, and the training goes on from its last checkpoint, `cluster.max_failures`
    times. A node that gives notice costs no step: all ranks checkpoint, and go on without it.

    Raises:
        InterruptedError, ConnectionError: stopped without a worker to save, or the cluster's head is gone.
        Exception: what the first failing worker raised.
    """
    from detcore.launch.ray_worker import MARK_NAME

    cluster, run_dir = job.config.cluster, Path(job.config.run_dir)
    mark = uuid.uuid4().hex
    with ExitStack() as afterwards, ExitStack() as stack:
        print(f"starting {_workers(cluster)} with Ray", flush=True)
        set_timeouts(cluster)
        stack.enter_context(ray_cluster(cluster))
        head = stack.enter_context(HeadWatch())
        stop = stack.enter_context(StopFile(run_dir / STOP_FILE_NAME))
        relay = stack.enter_context(console.Relay(run_dir / console.FILE_NAME))
        (run_dir / MARK_NAME).write_text(mark)
        stack.callback((run_dir / MARK_NAME).unlink, missing_ok=True)
        while True:
            attempt = _Attempt(_trainer(job, mark))
            afterwards.callback(attempt.leave)
            result = attempt.result(relay, cluster, stop, head)
            if result.stopped != "requested" or stop.received or stop.asked_for:
                break
            stop.withdraw()
            print(f"going on from step {result.step} without the nodes that are about to go", flush=True)
    # Otherwise the signal came too late to stop anything.
    return replace(result, stopped=stop.received) if result.stopped is not None and stop.received else result


def _workers(cluster: ClusterConfig) -> str:
    if cluster.elastic:
        return f"{cluster.least_workers} to {cluster.most_workers} workers"
    return f"{cluster.num_workers} {'worker' if cluster.num_workers == 1 else 'workers'}"


def _trainer(job: "Job", mark: str) -> TorchTrainer:
    from detcore.launch.ray_worker import train_rank

    config, cluster, run_dir = job.config, job.config.cluster, Path(job.config.run_dir)
    gpus = gpus_per_worker(cluster, device=config.engine.device)
    return TorchTrainer(  # Train V2; type checkers see V1 by the same names
        partial(train_rank, job, console.Terminal.of_this_process(), mark),  # type: ignore[arg-type]
        torch_config=NodesNetwork(timeout_s=cluster.collective_timeout_s),  # nccl where workers have GPUs, else gloo
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=cluster.num_workers,  # type: ignore[arg-type]
            use_gpu=gpus > 0,
            resources_per_worker={
                "CPU": cluster.cpus_per_worker,
                **({"GPU": gpus} if gpus else {}),
                **cluster.resources_per_worker,
            },
            placement_strategy=cluster.placement.upper(),
            elastic_resize_monitor_interval_s=cluster.resize_check_s,
        ),
        run_config=RunConfig(  # type: ignore[call-arg]
            name=config.name,
            storage_path=_storage(cluster.storage_path, run_dir),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            logging_config=LoggingConfig(log_level="CRITICAL"),  # errors are raised here, as one
            callbacks=[Failures(run_dir / console.FILE_NAME, most=cluster.max_failures)],  # type: ignore[list-item]
        ),
    )


def _storage(stated: str | None, run_dir: Path) -> str:
    if stated is not None and "://" in stated:
        return stated
    return str(run_dir / "ray" if stated is None else Path(stated).absolute())


class Failures(UserCallback):  # type: ignore[misc]
    """In Ray's controller: says what went wrong before a new attempt, and makes none where that would be in vain."""

    def __init__(self, console_file: Path, *, most: int) -> None:
        self._console_file, self._most, self._count = console_file, most, 0

    def after_exception(self, run_context: object, worker_exceptions: dict[int, Exception]) -> None:
        cause = first_cause(WorkerGroupError("", worker_exceptions))
        if not worth_another_try(cause):
            raise cause
        self._count += 1
        if self._most < 0 or self._count <= self._most:
            allowed = "" if self._most < 0 else f" of {self._most}"
            console.say_to(self._console_file, f"failure {self._count}{allowed}: {cause}; {_AGAIN}")


def worth_another_try(error: BaseException) -> bool:
    """Whether it is of the world, such as a lost machine, and not of the program or what it was given."""
    in_vain = (NotImplementedError, RecursionError, torch.OutOfMemoryError)
    return isinstance(error, (OSError, RuntimeError)) and not isinstance(error, in_vain)


class _Attempt:
    """Ray's training in a thread: in the main one Ray answers Ctrl-C by killing the workers, without a checkpoint."""

    def __init__(self, trainer: TorchTrainer) -> None:
        self._trainer = trainer
        self._future: Future[Result] = Future()
        self._thread = threading.Thread(target=self._settle, name="detcore-ray", daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """To be called once Ray is shut down, which ends the thread: Python would crash if it ended with it in Ray."""
        self._thread.join(_LEAVE_SECONDS)

    def result(self, relay: console.Relay, cluster: ClusterConfig, stop: StopFile, head: HeadWatch) -> "FitResult":
        """Waits for the end, and shows what the workers say.

        Raises:
            InterruptedError: there is nobody who could save a checkpoint before leaving, as was asked.
            ConnectionError: the head of the cluster is gone.
            Exception: what the first failing worker raised.
        """
        self._wait(relay, cluster, stop, head)
        try:
            result: FitResult = self._future.result().return_value  # type: ignore[attr-defined]
        except Exception as error:
            if head.silent_for() > _HEAD_SECONDS:
                raise _headless(head, "the last checkpoint is kept") from None
            cause = first_cause(error)
            raise cause from None if isinstance(cause, (ValueError, OSError)) or cause is error else error
        if result.stopped == "requested" and head.silent_for() > _HEAD_SECONDS:
            raise _headless(head, f"saved at step {result.step}")
        return result

    def _wait(self, relay: console.Relay, cluster: ClusterConfig, stop: StopFile, head: HeadWatch) -> None:
        heard = told = asked = time.monotonic()
        running = False
        while not self._future.done():
            now = time.monotonic()
            if said := relay.move():
                heard = now
                running = not said.rstrip().endswith(_AGAIN)
            if not stop.received:
                asked = now
            elif not running or (now - asked > _PATIENCE_SECONDS and heard < asked):
                raise InterruptedError(
                    f"stopped by {stop.received}: no worker is there to save; the last checkpoint is kept"
                )
            if not running and now - max(heard, told) > _PATIENCE_SECONDS and not head.silent_for():
                told = now  # Ray waits for ever, in case the cluster grows
                print(f"nothing heard of the workers yet; {resources(cluster)}", flush=True)
            if head.silent_for() > _HEAD_SECONDS:
                stop.ask()
            if head.silent_for() > 2 * _HEAD_SECONDS:
                raise _headless(head, "the last checkpoint is kept")
            time.sleep(_POLL_SECONDS)

    def _settle(self) -> None:
        try:
            self._future.set_result(self._trainer.fit())
        except BaseException as error:  # raised in the main thread
            self._future.set_exception(error)


def _headless(head: HeadWatch, saved: str) -> ConnectionError:
    return ConnectionError(
        f"the head of the cluster ({head.address}) has not answered for {head.silent_for():.0f} s; {saved}: "
        "the same command goes on from there, on a new cluster"
    )


def first_cause(error: BaseException) -> BaseException:
    """What went wrong in a worker, out of the exceptions that Ray wraps it in.

    Of several workers' exceptions it is a ValueError if there is one, and last what torch.distributed says where
    another rank is gone. A worker that died or never came is a ChildProcessError.
    """
    match error:
        case WorkerGroupError() if error.worker_failures:
            causes = [first_cause(failure) for _, failure in sorted(error.worker_failures.items())]
            return min(
                causes,
                key=lambda cause: [
                    not isinstance(cause, ValueError),
                    *(isinstance(cause, kind) for kind in _AFTERMATH),
                ],
            )
        case RuntimeError() if "gloo" in str(error):
            return ConnectionAbortedError(
                f"a worker lost the connection to another: {' '.join(str(error).split())[:300]}"
            )
        case ControllerError():
            return first_cause(error.controller_failure)
        case RayTaskError() if isinstance(error.cause, BaseException):
            return first_cause(error.cause)
        case ModuleNotFoundError():
            return ValueError(f"a worker cannot import {error.name!r}: install it on the cluster's machines")
        case _ if type(error).__module__.split(".")[0] == "ray":
            return ChildProcessError(f"a worker is lost: {' '.join(str(error).split())[:500]}")
    return error
