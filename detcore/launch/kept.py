"""What a job leaves behind must not be where Ray unpacked the files that it came with: they go after the job."""

from itertools import pairwise
from pathlib import Path

from detcore.config import TrackingConfig
from detcore.config.stores import is_url
from detcore.tracking.client import sqlite_path, tracking_uri

SERVER = (
    "run `mlflow server` and set tracking.uri=http://HOST:5000 (or MLFLOW_TRACKING_URI in the job's environment), or "
    "tracking.enabled=false"
)
_COPY = "is in the copy of the submitted folder that Ray removes after the job"
_UNPACKED = ("runtime_resources", "working_dir_files")
"""Of a node's folders, those in which Ray unpacks what jobs came with."""


def is_kept(place: str | Path) -> bool:
    """Whether a file, a folder or what is at a URL stays after the job; so does all that is not a job's."""
    return is_url(place) or _UNPACKED not in pairwise(Path(place).absolute().parts)


def check_kept(setting: str, place: str) -> None:
    """Raises a ValueError with the remedy where results would be lost."""
    if not is_kept(place):
        raise ValueError(f"{setting} = {place} {_COPY}: set {setting} to a folder that stays, and that all nodes mount")


def check_records_are_kept(tracking: TrackingConfig) -> None:
    """Raises a ValueError with the remedy where runs or versions would be lost."""
    database = sqlite_path(tracking_uri(tracking)) if tracking.enabled else None
    if database is not None and not is_kept(database):
        raise ValueError(f"MLflow's database {database.name} {_COPY}: {SERVER}")
