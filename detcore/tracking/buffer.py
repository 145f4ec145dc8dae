"""The file that keeps what MLflow could not take: a run's handle, then one record a line."""

import json
import logging
import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from detcore.tracking.client import connect, one_line, without_password
from detcore.tracking.handle import RunHandle
from detcore.tracking.opening import finish_opening
from detcore.tracking.records import Record, deliver_all

_FILE_NAME = "tracking-buffer.jsonl"
_log = logging.getLogger(__name__)


def read(run_dir: Path | str, *, uri: str | None = None) -> tuple[RunHandle | None, list[Record]]:
    """The run and the records that the buffer in this folder holds; (None, []) where there is none.

    `uri` as in `RunHandle.from_dict`.

    Raises:
        ValueError: a record's files are not in this folder: they would be sent away, and some removed.
    """
    path = Path(run_dir, _FILE_NAME)
    if not path.is_file():
        return None, []
    header, *lines = path.read_text().split("\n")
    # What follows the last line's end was being written when the process was killed.
    records = [json.loads(line) for line in lines[:-1]]
    for record in records:
        if record.get("kind") in ("file", "image", "folder"):
            _expect_inside(Path(run_dir), record["path"], buffer=path)
    return RunHandle.from_dict(json.loads(header), uri=uri), records


def _expect_inside(run_dir: Path, file: str, *, buffer: Path) -> None:
    """A training writes nothing else into its buffer; the folder may be a stranger's."""
    if not Path(file).resolve().is_relative_to(run_dir.resolve()):
        raise ValueError(f"{buffer}: {file} is not in the run's folder, so it is not sent to MLflow; remove the line")


def write(handle: RunHandle, records: Sequence[Record]) -> None:
    """Makes the buffer hold exactly these records; without any there is no file."""
    path = Path(handle.run_dir, _FILE_NAME)
    lines = [json.dumps(record) for record in records]
    if not lines:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text("\n".join([json.dumps(handle.to_dict()), *lines]) + "\n")
    os.replace(partial, path)  # a process killed while it writes leaves the file before


def append(handle: RunHandle, records: Sequence[Record]) -> None:
    """Adds records to the buffer."""
    path = Path(handle.run_dir, _FILE_NAME)
    if not path.is_file():
        write(handle, records)
        return
    with path.open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def flush_buffer(run_dir: Path | str, *, uri: str | None = None) -> int:
    """Delivers what a training could not, and removes it from the folder; a second call does nothing.

    Args:
        run_dir: the training's folder.
        uri: the store, if it has a password; None takes MLFLOW_TRACKING_URI.

    Returns:
        The number of records delivered.

    Raises:
        ConnectionError, MlflowException: if MLflow is still out of reach; nothing is lost.
    """
    handle, records = read(run_dir, uri=uri)
    if handle is None:
        return 0
    pending = deque(records)
    client = connect(handle.uri)
    handle = finish_opening(client, handle.latest())
    assert handle.run_id is not None
    try:
        deliver_all(client, handle.run_id, pending)
    finally:
        write(handle, list(pending))
    return len(records)


def set_aside(run_dir: Path | str) -> None:
    """Renames the buffer of an earlier run, which is no part of the one that begins now."""
    path = Path(run_dir, _FILE_NAME)
    if path.is_file():
        aside = path.with_stem(f"{path.stem}-{int(time.time())}")
        path.rename(aside)
        _log.warning("%s was never delivered to MLflow; it is kept as %s", path, aside.name)


def warn_out_of_reach(handle: RunHandle, error: Exception) -> None:
    _log.warning(
        "MLflow at %s is out of reach (%s); training goes on, and %s keeps what is logged until it is back",
        without_password(handle.uri),
        one_line(error),
        Path(handle.run_dir, _FILE_NAME),
    )


def warn_undelivered(handle: RunHandle) -> None:
    _log.warning(
        "MLflow at %s has not got all of the run: %s keeps the rest; when it is back: python -m detcore.tracking %s",
        without_password(handle.uri),
        Path(handle.run_dir, _FILE_NAME),
        handle.run_dir,
    )
