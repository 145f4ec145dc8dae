"""One MLflow run a training: opened by the driver, handed to the ranks, closed by the driver."""

import logging
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from detcore.config import Config
from detcore.tracking import buffer
from detcore.tracking.client import connect, find_run, is_refusal, one_line, tracking_uri, without_password
from detcore.tracking.handle import RunHandle
from detcore.tracking.opening import describe_run, finish_opening
from detcore.tracking.records import Record

Status = Literal["FINISHED", "FAILED", "KILLED"]

_log = logging.getLogger(__name__)


def open_run(config: Config, *, dataset: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> RunHandle:
    """Opens the run of a training: parameters, config.yaml, tags and the data set as its input.

    Where `config.run_dir` has a run already, whether to go on with that or to begin a new one waits until the training
    says whether it goes on: see `settle`. With MLflow out of reach it warns once and returns a handle without a run;
    the training's callback keeps what would have been logged, and opens the run when MLflow is back.

    Args:
        dataset: what `dataset.json` in the shards' folder says: name, content_hash, splits.
        tags: besides those of the data and the code.

    Raises:
        ValueError: if MLflow refuses the run, or the tracking uri is impossible.
    """
    uri, opening = tracking_uri(config.tracking), describe_run(config, dataset)
    last = RunHandle.load(config.run_dir, uri=uri)
    if last is not None and last.uri != uri:
        last = None
    handle = RunHandle(
        uri=uri,
        run_id=None,
        run_dir=str(Path(config.run_dir).absolute()),
        key=uuid.uuid4().hex,
        opening={**opening, "tags": {**opening["tags"], **(tags or {})}},
        previous=None if last is None else last.to_dict(),
    )
    if handle.previous is None:
        _begin(handle)
    try:
        client = connect(uri)
        if last is not None and last.run_id is not None and find_run(client, last.run_id) is None:
            handle = _begin(replace(handle, previous=None))
        return handle if handle.previous is not None else finish_opening(client, handle)
    except Exception as error:  # MLflow, SQLAlchemy and the network each raise their own: none may stop a training
        if is_refusal(error):
            raise ValueError(f"MLflow at {without_password(uri)} refuses the run: {one_line(error)}") from error
        buffer.warn_out_of_reach(handle, error)
        return handle.latest()


def settle(handle: RunHandle, *, resumed: bool) -> RunHandle:
    """Decides between a new run and the folder's last one, by whether the training goes on from a checkpoint.

    What the last run has not yet delivered stays with it. Once decided, it stays so.
    """
    handle = handle.latest()
    if handle.previous is None:
        return handle
    if not resumed:
        return _begin(replace(handle, previous=None))
    # Under the new key, by which the driver finds it.
    settled = replace(RunHandle.from_dict(handle.previous, uri=handle.uri), key=handle.key)
    settled.save()
    return settled


def open_parent(config: Config, *, dataset: Mapping[str, Any], tags: Mapping[str, str]) -> RunHandle:
    """Opens the run that those of several trainings are to be children of; goes on with that of `config.run_dir`.

    Raises:
        ValueError: as `open_run`.
    """
    handle = open_run(config, dataset=dataset, tags=tags)
    if handle.previous is None:
        return handle
    handle = settle(handle, resumed=True)
    _deliver(handle, {"kind": "reopen"})
    return handle.latest()


def close_run(handle: RunHandle, status: Status) -> None:
    """Ends the run. Never raises: with MLflow out of reach the end is kept with the rest, and a warning says so."""
    handle = handle.latest()
    if handle.previous is None:  # else the training did not get as far as to begin
        _deliver(handle, {"kind": "end", "status": status})


def tag_run(run_dir: Path | str, tags: Mapping[str, str], *, uri: str) -> bool:
    """Sets tags of the last run in a training's folder; whether that went well, for it never raises."""
    try:
        handle = RunHandle.load(run_dir, uri=uri)
        if handle is None or handle.run_id is None:
            return False
        client = connect(uri)
        for key, value in tags.items():
            client.set_tag(handle.run_id, key, value)
    except Exception as error:  # as in open_run
        _log.warning("%s: MLflow does not take the tags %s (%s)", run_dir, ", ".join(tags), one_line(error))
        return False
    return True


def _deliver(handle: RunHandle, *records: Record) -> None:
    """Sends records, after those that wait in the buffer; what is not taken waits there too."""
    try:
        buffer.append(handle, records)
        buffer.flush_buffer(handle.run_dir, uri=handle.uri)
    except Exception:  # as in open_run
        buffer.warn_undelivered(handle)


def _begin(handle: RunHandle) -> RunHandle:
    buffer.set_aside(handle.run_dir)
    handle.save()
    return handle
