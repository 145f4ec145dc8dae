"""Files that a version keeps beside its weights, in the folder `card` of its artifacts."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from detcore.tracking.client import connect_existing, in_one_line, patient
from detcore.tracking.version import Version, find_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "card"
MOST_DESCRIPTION = 5000
"""Characters of a version's description that every database of MLflow's takes."""


def attach(name: str, folder: Path, *, description: str, uri: str | None = None) -> None:
    """Keeps all files of a folder with a version, and describes it in the registry.

    Args:
        name: `name/version`.
        description: Markdown, which MLflow's pages show; at most MOST_DESCRIPTION characters.
        uri: the store; None takes MLFLOW_TRACKING_URI, else the database in the working folder.

    Raises:
        ValueError: if there is no such version.
        ConnectionError: if MLflow is out of reach.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client, uri = connect_existing(uri)
    with in_one_line(uri), patient():
        version = find_version(client, name, uri=uri)
        location = _location(client, version)
        repository: Any = get_artifact_repository(location, tracking_uri=uri)
        repository.log_artifacts(str(folder), FOLDER)
        client.update_model_version(version.name, str(version.version), description=description)


@contextmanager
def attached(name: str, files: Sequence[str], *, uri: str | None = None) -> Iterator[Path]:
    """A folder with those of the files that the version keeps; others that may lie there are not fetched.

    Args:
        name: as `resolve` takes it, but for runs.
        files: paths in the folder that was attached.
        uri: as in `attach`.

    Raises:
        ValueError, ConnectionError: as `attach`.
    """
    client, uri = connect_existing(uri)
    with in_one_line(uri):
        location = _location(client, find_version(client, name, uri=uri))
    local = _local(location)
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory() as folder:
        with in_one_line(uri), patient():
            _download(location, Path(folder), files, uri=uri)
        yield Path(folder, FOLDER)


def _download(location: str, folder: Path, files: Sequence[str], *, uri: str) -> None:
    from mlflow import artifacts

    there: dict[str, set[str]] = {}
    for file in files:
        source, _, name = f"{location}/{FOLDER}/{file}".rpartition("/")
        if source not in there:
            entries = artifacts.list_artifacts(artifact_uri=source, tracking_uri=uri)
            there[source] = {PurePosixPath(entry.path).name for entry in entries}
        if name in there[source]:
            target = (folder / FOLDER / file).parent
            target.mkdir(parents=True, exist_ok=True)
            artifacts.download_artifacts(f"{source}/{name}", dst_path=str(target), tracking_uri=uri)


def _location(client: "MlflowClient", version: Version) -> str:
    return str(client.get_model_version_download_uri(version.name, str(version.version)))


def _local(location: str) -> Path | None:
    """The attached folder, where the artifacts are on this machine's disk."""
    address = urlsplit(location)
    return Path(url2pathname(address.path), FOLDER) if address.scheme in ("", "file") else None
