"""Figures and files of a finished training to its MLflow run."""

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from detcore.config import Config
from detcore.tracking import RunHandle, buffer
from detcore.tracking.client import tracking_uri


def send(
    config: Config, folder: Path, *, artifact: str, metrics: Mapping[str, float] | None = None, step: int = 0
) -> None:
    """Sends a folder to the run of the training; MLflow out of reach is a warning, and nothing is lost.

    Args:
        config: of the training; where it was not tracked nothing is sent.
        folder: its files are sent as they are now.
        artifact: the folder of the run that they become.
        metrics: to be logged at `step`.
    """
    handle = RunHandle.load(config.run_dir, uri=tracking_uri(config.tracking))
    if handle is None:
        return
    copies = Path(config.run_dir, "tracking", artifact)  # what is sent from there is removed
    shutil.copytree(folder, copies, dirs_exist_ok=True)
    records: list[dict[str, Any]] = []
    if metrics:
        now = int(1000 * time.time())
        records.append({"kind": "metrics", "values": dict(metrics), "step": step, "time_ms": now})
    for path in sorted(path for path in copies.rglob("*") if path.is_file()):
        below = Path(artifact, path.relative_to(copies)).parent
        records.append({"kind": "file", "path": str(path.absolute()), "folder": below.as_posix()})
    try:
        buffer.append(handle, records)
        buffer.flush_buffer(handle.run_dir, uri=handle.uri)
    except Exception:  # MLflow, SQLAlchemy, the artifact store and the network each raise their own
        buffer.warn_undelivered(handle)
    _remove_empty(Path(config.run_dir, "tracking"))


def _remove_empty(folder: Path) -> None:
    """Removes the folders in `folder`, and itself, that hold nothing."""
    for path in (*sorted(folder.rglob("*"), reverse=True), folder):
        with suppress(OSError):  # it holds something, or is a file
            path.rmdir()
