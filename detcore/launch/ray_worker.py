"""A rank of a training under Ray Train: what runs in the worker's process."""

import os
import threading
import uuid
from concurrent.futures import Future, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import ray
import ray.train
import torch
from ray.train import PreemptionInfo
from ray.train.torch import get_device

from detcore.config.stores import is_url
from detcore.engine import FitResult
from detcore.engine.stall import StallWatch, host_name, own_store
from detcore.launch import console
from detcore.launch.job import Job, run_rank
from detcore.launch.ray_nodes import DESCRIPTION, no_run_dir, no_shards
from detcore.launch.stopping import FILE_NAME as STOP_FILE_NAME

MARK_NAME = ".shared"
"""A file in the run's folder with the driver's word in it: a worker that reads another has another folder."""
ATTEMPT_NAME = ".attempt"
"""A file in it with the word of the rank 0 that writes checkpoints: one that was taken for lost must not go on to."""
_LOOK_SECONDS = 0.2


@dataclass(kw_only=True)
class RayWorker:
    """One rank, as Ray Train started it."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    watch: StallWatch | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Tells Ray's controller and waits for the other ranks to do so. The checkpoint stays in the run's folder."""
        ray.train.report(metrics)

    def stop_requested(self) -> bool:
        return self.stop.is_set()

    def beat(self, step: int, *, bounded: bool) -> None:
        if self.watch is not None:
            self.watch.beat(step, bounded=bounded)


def train_rank(job: Job, terminal: console.Terminal, mark: str) -> FitResult:
    """What Ray Train calls on each worker.

    The training runs in a thread of its own, so that this one is free to see that it is to stop, or has.

    Args:
        mark: what the driver wrote into the run's folder.

    Raises:
        ValueError: if this node does not have what it must share with the driver; besides all that `fit` raises.
        StalledError: if a rank has not gone on for too long.
    """
    context, run_dir = ray.train.get_context(), Path(job.config.run_dir)
    node = host_name(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    check_shared(job, mark, node=node)
    worker = RayWorker(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        local_rank=context.get_local_rank(),
        device=get_device(),
    )
    with ExitStack() as stack:
        if worker.rank == 0:
            stack.enter_context(console.speaking_to(run_dir / console.FILE_NAME, terminal))
        if (timeout := job.config.cluster.stall_timeout_s) is not None:
            worker.watch = StallWatch(
                rank=worker.rank, world_size=worker.world_size, store=own_store(), timeout_s=timeout, place=node
            )
            stack.callback(worker.watch.stop)
        return attended(job, worker)


def attended(job: Job, worker: RayWorker) -> FitResult:
    """Trains in another thread; sees to it that the training stops when it is to, or is left if it does not go on.

    Raises:
        StalledError: in that case; besides all that `fit` raises.
    """
    run_dir, attempt = Path(job.config.run_dir), uuid.uuid4().hex
    if worker.rank == 0:
        (run_dir / ATTEMPT_NAME).write_text(attempt)
    outcome: Future[FitResult] = Future()

    def run() -> None:
        try:
            if worker.device.type == "cuda":
                torch.cuda.set_device(worker.device)  # which is a thread's own
            outcome.set_result(run_rank(job, worker))
        except BaseException as error:  # raised where Ray sees it
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="detcore-train", daemon=True)  # it may hang for ever
    thread.start()
    if worker.watch is not None:
        worker.watch.start(thread)
    while not wait([outcome], timeout=_LOOK_SECONDS).done:
        if worker.rank == 0 and _is_replaced(run_dir / ATTEMPT_NAME, attempt):
            os._exit(1)  # the training's thread would go on writing
        if not worker.stop.is_set() and (reason := _why_stop(run_dir / STOP_FILE_NAME)):
            worker.stop.set()
            if worker.rank == 0:
                print(f"{reason}: finishing the step, then a checkpoint", flush=True)
        if worker.watch is not None:
            worker.watch.check()
    return outcome.result()


def _is_replaced(file: Path, attempt: str) -> bool:
    """Whether another rank 0 has begun since, on another node, or of another driver. Not if that cannot be read."""
    try:
        return file.read_text() not in ("", attempt)
    except OSError:
        return False


def _why_stop(stop_file: Path) -> str:
    """Empty if there is no reason. The driver's file, or a node's notice, which Ray gives all workers."""
    if stop_file.exists():
        return "stopping"
    info = _preemption()
    return "" if info is None else f"a node of ranks {', '.join(map(str, info.preempted_ranks))} is about to go"


def _preemption() -> PreemptionInfo | None:
    # Ray 2.60's only public way, ray.train.get_preemption_info(), is a barrier over all workers, too dear for each
    # step. That all stop at the same one is agreed on by the training itself.
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info


def check_shared(job: Job, mark: str, *, node: str) -> None:
    """Raises where this node sees another folder than the driver by the same name, and says what to do."""
    config = job.config
    try:
        found = Path(config.run_dir, MARK_NAME).read_text()
    except OSError:
        found = ""
    if found != mark:
        raise ValueError(f"node {node} {no_run_dir(config)}")
    shards = config.data.shards
    if not is_url(shards) and not os.path.isfile(Path(shards, DESCRIPTION)):
        raise ValueError(f"node {node} {no_shards(config)}")
