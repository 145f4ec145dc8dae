"""What every process of a training knows of its run."""

import json
import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from detcore.tracking.client import without_password

_FILE_NAME = "tracking.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RunHandle:
    """A run, known to the driver and to every rank; plain values, so it can be sent to other processes.

    Attributes:
        uri: MLflow's store.
        run_id: None while there is no run: rank 0 makes it.
        run_dir: the training's folder; `tracking.json` in it is this handle.
        key: tells this run from an earlier one in the same folder.
        opening: what is still to be sent to open it (experiment, name, time_ms, params, tags, dataset, config); {} when
            all of it has arrived.
        previous: the folder's last run, as `to_dict`: if the training turns out to go on, so does that run. None where
            there is none, or that is settled.
    """

    uri: str
    run_id: str | None
    run_dir: str
    key: str
    opening: dict[str, Any]
    previous: dict[str, Any] | None = None

    @property
    def address(self) -> str:
        """For people: the run's page in MLflow's UI, or the run and the database that a UI can be started for."""
        uri = without_password(self.uri)
        return f"{uri.rstrip('/')}/#/runs/{self.run_id}" if uri.startswith("http") else f"{self.run_id} in {uri}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values to store. A uri with a password is left out: the folder may be shared."""
        return {**asdict(self), "uri": self.uri if self.uri == without_password(self.uri) else None}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any], *, uri: str | None = None) -> Self:
        """The reverse of `to_dict`. A uri that was left out is `uri`, else MLFLOW_TRACKING_URI.

        Raises:
            ValueError: if it is needed and neither says it.
        """
        uri = stored["uri"] or uri or os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            raise ValueError(f"{stored['run_dir']}: set MLFLOW_TRACKING_URI; a uri with a password is not kept")
        return cls(**{**stored, "uri": uri})

    def save(self) -> None:
        """Writes `tracking.json` in the run's folder.

        Raises:
            OSError: naming the file, which is then as it was.
        """
        path = Path(self.run_dir, _FILE_NAME)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Other processes and threads may write it too, and read it at any time.
        partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
        try:
            partial.write_text(json.dumps(self.to_dict(), indent=2))
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OSError(error.errno, error.strerror, str(path)) from error

    @classmethod
    def load(cls, run_dir: Path | str, *, uri: str | None = None) -> Self | None:
        """The handle of the last run in this folder, or None; `uri` as in `from_dict`. A broken file is as none."""
        path = Path(run_dir, _FILE_NAME)
        if not path.is_file():
            return None
        try:
            stored = json.loads(path.read_text())
        except ValueError:
            stored = None
        if not isinstance(stored, dict) or stored.keys() != {field.name for field in fields(cls)}:
            _log.warning("%s is broken: going on as if it were not there", path)
            return None
        return cls.from_dict(stored, uri=uri)

    def latest(self) -> Self:
        """This handle as another process may have left it since: that one may have settled or opened the run."""
        stored = type(self).load(self.run_dir, uri=self.uri)
        return stored if stored is not None and stored.key == self.key else self
