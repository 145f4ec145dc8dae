"""The driver of a training: prepared data, a tracked run, and ranks here or on a cluster."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Literal

import yaml
from torch import nn

from detcore.config import Config
from detcore.config.model import Detector, MViTBackbone, ResNetBackbone, ViTBackbone
from detcore.config.stores import is_url
from detcore.data import SampleTransform, prepare
from detcore.data.description import read_description
from detcore.data.prepared import is_prepared
from detcore.engine import FitResult, LocalWorker, Worker, pick_device
from detcore.engine.atomic import write_file
from detcore.launch.job import Job, run_rank
from detcore.launch.kept import check_kept, check_records_are_kept
from detcore.launch.lock import only_training
from detcore.launch.starting import with_architecture
from detcore.tracking import RunHandle, close_run, open_run

CONFIG = "config.yaml"
"""The file in a run's folder that keeps the settings it was trained with."""


def train(
    config: Config,
    *,
    model: nn.Module | None = None,
    transform: SampleTransform | None = None,
    worker: Worker | None = None,
    tags: Mapping[str, str] | None = None,
) -> FitResult:
    """Trains, here or on Ray as `config.cluster` says, and leaves all results in `config.run_dir`.

    Prepares the data first where its shards are absent. Goes on from an interrupted training of the same kind.

    Args:
        config: the whole configuration.
        model: your own detector, any module with losses(batch) and detect(batch); in place only with cluster=local.
        transform: your own augmentation of the training samples.
        worker: the only rank, in this process, in place of what `config.cluster` says.
        tags: of the run in MLflow, besides its own.

    Raises:
        ValueError: for what the configuration, the data or the model have wrong, or if another training is running in
            the same folder; one line.
        OSError: if something cannot be written.
    """
    check_kept("run_dir", config.run_dir)
    check_records_are_kept(config.tracking)
    with only_training(Path(config.run_dir)):
        text = yaml.safe_dump(config.shareable(), sort_keys=False, allow_unicode=True)
        write_file(Path(config.run_dir, CONFIG), text.encode())
        return _train(config, model=model, transform=transform, worker=worker, tags=tags)


def _train(
    config: Config,
    *,
    model: nn.Module | None,
    transform: SampleTransform | None,
    worker: Worker | None,
    tags: Mapping[str, str] | None,
) -> FitResult:
    with _joined(config) if worker is None else nullcontext(False) as joined:
        ensure_shards(config)
        dataset = read_description(config.data.shards, store=config.data.store)
        config = with_architecture(config, dataset=dataset)
        job = Job(config=with_absolute_paths(config), model=model, transform=transform)
        if joined:
            from detcore.launch.ray_nodes import check_files

            check_files(job.config)
        run = open_run(config, dataset=dataset, tags=tags) if config.tracking.enabled else None
        return _launch(job, worker) if run is None else _tracked(replace(job, run=run), run, worker)


@contextmanager
def _joined(config: Config) -> Iterator[bool]:
    """Inside, Ray is connected where the training joins a cluster, whose nodes can reach its folders.

    A cluster of its own is started only when all else is ready.
    """
    cluster, ray = config.cluster, sys.modules.get("ray")
    connected = ray is not None and ray.is_initialized()
    if cluster.type != "ray" or not (connected or cluster.address or os.environ.get("RAY_ADDRESS")):
        yield False
        return
    from detcore.launch.ray_cluster import ray_cluster
    from detcore.launch.ray_nodes import check_places

    with ray_cluster(cluster):
        check_places(config)
        yield True


def _tracked(job: Job, run: RunHandle, worker: Worker | None) -> FitResult:
    status: Literal["FINISHED", "FAILED", "KILLED"] = "FAILED"
    try:
        result = _launch(job, worker)
        status = "FINISHED" if result.stopped is None else "KILLED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        close_run(run, status)
    return result


def _launch(job: Job, worker: Worker | None) -> FitResult:
    if worker is not None:
        return run_rank(job, worker)
    if job.config.cluster.type == "local":
        return run_rank(job, LocalWorker(device=pick_device(job.config.engine.device)))
    # Imported late: takes seconds, and a machine without Ray can train all the same.
    from detcore.launch.ray_train import fit_on_ray

    return fit_on_ray(job)


def ensure_shards(config: Config) -> None:
    """Prepares the data where that was never done, or was done with other settings (another root, say)."""
    if not is_prepared(config.data, seed=config.seed):
        prepare(config.data, seed=config.seed)


def with_absolute_paths(config: Config) -> Config:
    """The same configuration for processes with other working folders."""
    data = config.data
    if not is_url(data.shards):
        data = data.model_copy(update={"shards": str(Path(data.shards).absolute())})
    for key in ("sampling", "train_subset"):
        if (file := getattr(section := getattr(data, key), "file", None)) is not None:
            section = section.model_copy(update={"file": str(Path(file).absolute())})
            data = data.model_copy(update={key: section})
    update: dict[str, object] = {"run_dir": str(Path(config.run_dir).absolute()), "data": data}
    if (hierarchy := config.engine.evaluation.hierarchy) is not None:
        evaluation = config.engine.evaluation.model_copy(update={"hierarchy": str(Path(hierarchy).absolute())})
        update["engine"] = config.engine.model_copy(update={"evaluation": evaluation})
    model, backbone = config.model, getattr(config.model, "backbone", None)
    if isinstance(model, Detector) and model.weights is not None:
        update["model"] = model.model_copy(update={"weights": str(Path(model.weights).absolute())})
    elif isinstance(backbone, ResNetBackbone | ViTBackbone | MViTBackbone) and backbone.weights is not None:
        backbone = backbone.model_copy(update={"weights": str(Path(backbone.weights).absolute())})
        update["model"] = model.model_copy(update={"backbone": backbone})
    return config.model_copy(update=update)
