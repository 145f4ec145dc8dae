"""What a run is opened with: its experiment, parameters, tags, configuration and data set."""

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from detcore.config import Config
from detcore.config.stores import is_url
from detcore.tracking.client import sqlite_path, without_password
from detcore.tracking.handle import RunHandle
from detcore.tracking.provenance import dvc_hash, git_commit

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_PARAM_LENGTH = 6000
PARAMS_PER_REQUEST = 100
MAX_DIGEST_LENGTH = 36

GIT_COMMIT = "mlflow.source.git.commit"
"""MLflow's own name for it: the UI links it."""
GIT_DIRTY = "git.dirty"
DVC_MD5 = "data.dvc_md5"
PROVENANCE = (GIT_COMMIT, GIT_DIRTY, DVC_MD5)


def describe_run(config: Config, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """All that opening a run sends, as plain values: experiment, name, time_ms, params, tags, dataset, config."""
    settings = config.model_dump(mode="json")
    settings["tracking"]["uri"] = without_password(config.tracking.uri) if config.tracking.uri else None
    tags = {"data.name": dataset["name"], "data.content_hash": dataset["content_hash"], **provenance_tags(config)}
    shards = config.data.shards
    source = {"uri": shards if is_url(shards) else str(Path(shards).absolute())} | {
        name: tags[tag] for name, tag in (("git_commit", GIT_COMMIT), ("dvc_md5", DVC_MD5)) if tag in tags
    }
    counts = {
        f"num_{kind}_{split}": entry[kind]
        for split, entry in dataset["splits"].items()
        for kind in ("samples", "objects")
    }
    return {
        "experiment": config.tracking.experiment,
        "name": config.name,
        "time_ms": int(1000 * time.time()),
        "params": dict(flatten(settings)),
        "tags": tags,
        "dataset": {
            "name": dataset["name"],
            "digest": dataset["content_hash"][:MAX_DIGEST_LENGTH],
            "source_type": shards.partition("://")[0] if is_url(shards) else "local",
            "source": json.dumps(source),
            "profile": json.dumps(counts),
        },
        "config": yaml.safe_dump(settings, sort_keys=False),
    }


def provenance_tags(config: Config) -> dict[str, str]:
    """The commit of the working folder and DVC's hash of the shards, as far as there are any."""
    tags: dict[str, str] = {}
    if (commit := git_commit()) is not None:
        tags |= {GIT_COMMIT: commit.sha, GIT_DIRTY: str(commit.dirty).lower()}
    shards = config.data.shards
    if not is_url(shards) and (md5 := dvc_hash(Path(shards))) is not None:
        tags[DVC_MD5] = md5
    return tags


def finish_opening(client: "MlflowClient", handle: RunHandle) -> RunHandle:
    """Makes the run, if there is none yet, and sends what is left of its opening. May be repeated after a failure."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    opening = handle.opening
    if not opening:
        return handle
    if handle.run_id is None:
        run = client.create_run(
            experiment_id(client, opening["experiment"], uri=handle.uri),
            start_time=opening["time_ms"],
            tags=opening["tags"],
            run_name=opening["name"],
        )
        handle = replace(handle, run_id=run.info.run_id)
        handle.save()
    assert handle.run_id is not None
    params = iter(opening["params"].items())
    while chunk := [Param(key, value) for key, value in islice(params, PARAMS_PER_REQUEST)]:
        client.log_batch(handle.run_id, params=chunk)
    entry = DatasetInput(Dataset(**opening["dataset"]), [InputTag("mlflow.data.context", "training")])
    client.log_inputs(handle.run_id, datasets=[entry])
    client.log_text(handle.run_id, opening["config"], "config.yaml")
    handle = replace(handle, opening={})
    handle.save()
    return handle


def experiment_id(client: "MlflowClient", name: str, *, uri: str) -> str:
    """The experiment of this name, made if need be; beside a sqlite database its files go to `mlruns`."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        database = sqlite_path(uri)
        location = None if database is None else (database.parent / "mlruns" / name).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another process may have made it in between
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    return str(found.experiment_id)


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as dotted names with values as text: lists as JSON, values cut to MLflow's limit."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        else:
            text = json.dumps(value) if isinstance(value, (list, tuple)) else str(value)
            yield name, text if len(text) <= MAX_PARAM_LENGTH else text[: MAX_PARAM_LENGTH - 1] + "…"
