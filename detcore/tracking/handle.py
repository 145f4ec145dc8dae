"""What every process of a training knows of its run."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from detcore.tracking.client import without_password

_FILE_NAME = "tracking.json"


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
        """Writes `tracking.json` in the run's folder."""
        path = Path(self.run_dir, _FILE_NAME)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.to_dict(), indent=2))

    @classmethod
    def load(cls, run_dir: Path | str, *, uri: str | None = None) -> Self | None:
        """The handle of the last run in this folder, or None; `uri` as in `from_dict`."""
        path = Path(run_dir, _FILE_NAME)
        return cls.from_dict(json.loads(path.read_text()), uri=uri) if path.is_file() else None

    def latest(self) -> Self:
        """This handle as another process may have left it since: that one may have settled or opened the run."""
        stored = type(self).load(self.run_dir, uri=self.uri)
        return stored if stored is not None and stored.key == self.key else self
