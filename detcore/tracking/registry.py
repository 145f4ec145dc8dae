"""Versions of a registered model, and which of them is the champion."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detcore.config import Config
from detcore.config.model import Detector
from detcore.data import ShardedSplit
from detcore.data.description import find_description as find_dataset
from detcore.inference import PublishedModel, read_description
from detcore.tracking.aliases import holder, judge, move
from detcore.tracking.buffer import flush_buffer
from detcore.tracking.client import connect, find_run, in_one_line, tracking_uri
from detcore.tracking.handle import RunHandle
from detcore.tracking.opening import PROVENANCE, experiment_id, provenance_tags
from detcore.tracking.published import example_image, log_published_model, logged_with
from detcore.tracking.version import (
    BACKBONE,
    DATA_HASH,
    DATA_NAME,
    MONITOR,
    PARENT_SHA256,
    VAL_HASH,
    WEIGHTS_SHA256,
    find_version,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True, kw_only=True)
class RegisteredVersion:
    """The outcome of a registration.

    Attributes:
        name, version: `detcore.load(f"{name}/{version}")` gives the model.
        created: False if these weights were registered already.
        alias: which the champion has.
        alias_moved: whether it is now on this version and was not before.
        reason: why, or why not, in one line.
    """

    name: str
    version: int
    created: bool
    alias: str
    alias_moved: bool
    reason: str


def register(
    model_dir: Path,
    *,
    config: Config,
    metrics_val: Mapping[str, float] | None = None,
    metrics_test: Mapping[str, float] | None = None,
) -> RegisteredVersion:
    """Makes a published model a version of `config.tracking.registered_name`, linked to the run that logged it.

    The champion's alias moves to it if there is no champion yet, or if its `engine.monitor` on the validation set is
    higher than the champion's on the same validation set. Where the validation sets differ, the figures do not say
    which is better: the champion stays, and the reason says so. Test figures are recorded, and never looked at. Weights
    that are registered already keep their version; its figures are brought up to date.

    Args:
        model_dir: a published folder.
        config: what it was trained with.
        metrics_val: None takes those in `model.json`.
        metrics_test: for the record.

    Raises:
        ValueError: if `model_dir` is no published model, it has no figure for `engine.monitor`, or MLflow refuses.
        ConnectionError: if MLflow is out of reach.
    """
    published = read_description(model_dir)
    figures = {"val": dict(published.metrics if metrics_val is None else metrics_val), "test": dict(metrics_test or {})}
    monitor = config.engine.monitored(figures["val"])
    name, alias = config.tracking.registered_name, config.tracking.champion_alias
    if not math.isfinite(figures["val"].get(monitor, math.nan)):
        raise ValueError(f"{model_dir}: no {monitor} (engine.monitor) on val, only {', '.join(sorted(figures['val']))}")
    uri = tracking_uri(config.tracking)
    client = connect(uri)
    with in_one_line(uri):
        flush_buffer(config.run_dir, uri=uri)
        run = _training_run(client, config, published.weights_sha256, uri=uri)
        tags = _tags(config, published, figures) | (_provenance(run) if run is not None else provenance_tags(config))
        version = _registered(client, name, published.weights_sha256)
        created = version is None
        if version is None:
            logged = _logged(client, model_dir, config=config, published=published, run=run, uri=uri)
            version = _create(client, name, logged, tags=tags, uri=uri)
        else:
            for key, value in tags.items():
                client.set_model_version_tag(name, version.version, key, value)
        loading = f'`detcore.load("{name}/{version.version}").predict("image.jpg")`'
        client.update_model_version(name, version.version, description=_describe(published, figures, loading))
        own = find_version(client, f"{name}/{version.version}", uri=uri)
        champion = holder(client, name, alias, uri=uri)
        better, reason = judge(own, champion, alias=alias)
        if better:
            move(client, own, alias, current=champion, reason=reason, forced=False)
    return RegisteredVersion(
        name=name, version=own.version, created=created, alias=alias, alias_moved=better, reason=reason
    )


def _registered(client: "MlflowClient", name: str, sha256: str) -> "ModelVersion | None":
    """The version with these weights, if there is one."""
    found = client.search_model_versions(f"name = '{name}' and tags.{WEIGHTS_SHA256} = '{sha256}'")
    return found[0] if found else None


def _training_run(client: "MlflowClient", config: Config, sha256: str, *, uri: str) -> "Run | None":
    """The run whose model this is: that of the run's folder, unless DVC has since put another model there."""
    handle = RunHandle.load(config.run_dir, uri=uri)
    own = find_run(client, handle.run_id) if handle is not None and handle.run_id is not None else None
    experiment = own.info.experiment_id if own else experiment_id(client, config.tracking.experiment, uri=uri)
    sources = [model.source_run_id for model in logged_with(client, sha256, experiment_id=experiment)]
    if own is not None and (own.info.run_id in sources or not (own.outputs and own.outputs.model_outputs)):
        return own
    return next((run for source in sources if source and (run := find_run(client, source)) is not None), None)


def _logged(
    client: "MlflowClient", model_dir: Path, *, config: Config, published: PublishedModel, run: "Run | None", uri: str
) -> "LoggedModel":
    return log_published_model(
        client,
        model_dir,
        name=config.name,
        experiment_id=run.info.experiment_id if run else experiment_id(client, config.tracking.experiment, uri=uri),
        run_id=run.info.run_id if run else None,
        example=_example(config, published),
        step=0,
    )


def _create(
    client: "MlflowClient", model_name: str, model: "LoggedModel", *, tags: dict[str, str], uri: str
) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model_name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    run_id = model.source_run_id or None
    return client.create_model_version(
        model_name,
        # A database is written to from this process, where MLflow would look up `models:/…` in its global store.
        source=f"models:/{model.model_id}" if uri.startswith("http") else model.artifact_location,
        run_id=run_id,
        tags=tags,
        model_id=model.model_id if run_id is not None else None,
    )


def _tags(config: Config, published: PublishedModel, figures: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    return {
        WEIGHTS_SHA256: published.weights_sha256,
        "labels": json.dumps(published.labels),
        MONITOR: config.engine.monitored(figures["val"]),
        DATA_NAME: published.data.name,
        DATA_HASH: published.data.content_hash,
        VAL_HASH: _val_hash(config, published),
        **_started_from(published),
        **{
            f"{split}.{name.removeprefix(f'{split}_')}": repr(float(value))
            for split, own in figures.items()
            for name, value in own.items()
        },
    }


def _started_from(published: PublishedModel) -> dict[str, str]:
    """The weights that the training began with: a whole model's, else the backbone's."""
    model = published.model
    if isinstance(model, Detector) and model.weights is not None:
        return {} if model.weights_sha256 is None else {PARENT_SHA256: model.weights_sha256}
    weights = getattr(getattr(model, "backbone", None), "weights", None)
    # Of a file only its name: the folder is a machine's own.
    return {} if weights in (None, "none") else {BACKBONE: Path(weights).name}


def _provenance(run: "Run") -> dict[str, str]:
    """The code and data that the run was started with, which may not be what lies here now."""
    return {name: run.data.tags[name] for name in PROVENANCE if name in run.data.tags}


def _dataset(config: Config, published: PublishedModel) -> dict[str, Any] | None:
    """The description of the prepared data, if it is there and still what the model was trained on."""
    data = config.data
    dataset = find_dataset(data.shards, store=data.store)
    return dataset if dataset is not None and dataset["content_hash"] == published.data.content_hash else None


def _val_hash(config: Config, published: PublishedModel) -> str:
    """The validation set's own identity; that of all the data where the shards cannot be asked."""
    dataset = _dataset(config, published)
    if dataset is None:
        return published.data.content_hash
    content = [dataset["categories"], [shard["sha256"] for shard in dataset["splits"]["val"]["shards"]]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _example(config: Config, published: PublishedModel) -> str:
    if _dataset(config, published) is None:
        return example_image(None)
    split = ShardedSplit.open(config.data.shards, "val", store=config.data.store)
    try:
        return example_image(split.read(0))
    finally:
        split.close()


def _describe(published: PublishedModel, figures: Mapping[str, Mapping[str, float]], loading: str) -> str:
    """What a person reads in the registry."""
    shown = {
        split: ", ".join(f"{name} {value:.2f}" for name, value in own.items() if name.endswith(("_ap", "_ap50")))
        for split, own in figures.items()
    }
    lines = [
        f"{published.model.name} trained on {published.data.name}, {published.num_classes} classes.",
        *(f"{split}: {text}" for split, text in shown.items() if text),
        loading,
    ]
    return "\n\n".join(lines)
