"""Files for other programs that a version keeps beside its weights, in the folder `exported` of its artifacts."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from detcore.tracking.client import connect_existing, in_one_line, patient
from detcore.tracking.version import Version, find_version, listed

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "exported"
TAG = "exported."
"""Begins the tags, one a format, that say which files there are, their SHA-256, and what was measured of them."""


def keep_export(name: str, files: Sequence[Path], *, format: str, facts: dict[str, Any], uri: str | None = None) -> str:
    """Keeps an exported model with the version that it was made of, in place of an earlier one of its format.

    Args:
        name: as `resolve` takes it, but for runs.
        files: the one to be loaded first.
        format: what runs it.
        facts: of it, as JSON has them: by how much it differs.
        uri: the store; None takes MLFLOW_TRACKING_URI, else the database in the working folder.

    Returns:
        The version, as `name/version`.

    Raises:
        ValueError: there is no such version.
        ConnectionError: MLflow is out of reach.
    """
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    client, uri = connect_existing(uri)
    kept = {"files": {file.name: _sha256(file) for file in files}, "facts": facts}
    with in_one_line(uri), patient():
        version = find_version(client, name, uri=uri)
        repository: Any = get_artifact_repository(_location(client, version), tracking_uri=uri)
        for file in files:
            repository.log_artifact(str(file), f"{FOLDER}/{format}")
        client.set_model_version_tag(version.name, str(version.version), f"{TAG}{format}", json.dumps(kept))
    return version.title


def exported_file(name: str, *, format: str, uri: str | None = None) -> Path:
    """The file of a version that `keep_export` kept, on this machine, whole.

    It is copied once, below DETCORE_CACHE, else ~/.cache/detcore.

    Raises:
        ValueError: there is no such version, it has no such file, or another than was kept.
        ConnectionError: MLflow is out of reach.
    """
    client, uri = connect_existing(uri)
    with in_one_line(uri):
        version = find_version(client, name, uri=uri)
        tag = version.tags.get(f"{TAG}{format}")
        if tag is None:
            formats = sorted(key.removeprefix(TAG) for key in version.tags if key.startswith(TAG))
            raise ValueError(
                f"{version.title} keeps no file for {format}, only {listed(formats)}; make one: "
                f"detcore export {version.title} --format {format} --images … --out FILE --register"
            )
        files: dict[str, str] = json.loads(tag)["files"]
        cache = Path(os.environ.get("DETCORE_CACHE", Path.home() / ".cache" / "detcore")) / "exported"
        folder = cache / hashlib.sha256(tag.encode()).hexdigest()[:32]
        if not folder.is_dir():
            source = f"{_location(client, version)}/{FOLDER}/{format}"
            _copy(source, files, folder, name=version.title, uri=uri)
    return folder / next(iter(files))


def _copy(source: str, files: dict[str, str], folder: Path, *, name: str, uri: str) -> None:
    """These files, if they have these hashes; `folder` appears when all are there."""
    from mlflow import artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent))
    address = urlsplit(source)
    try:
        with patient():
            for file, sha256 in files.items():
                if Path(file).name != file:
                    raise ValueError(f"{name}: {file!r} is no name of a file")
                if address.scheme in ("", "file"):
                    shutil.copyfile(Path(url2pathname(address.path), file), partial / file)
                else:
                    artifacts.download_artifacts(f"{source}/{file}", dst_path=str(partial), tracking_uri=uri)
                if _sha256(partial / file) != sha256:
                    raise ValueError(f"{name}: {source}/{file} is not the file that was kept: export it again")
        partial.rename(folder)
    except FileNotFoundError as error:
        raise ValueError(f"{name}: {error.filename} is not there any more: export it again") from error
    except OSError:
        if not folder.is_dir():  # else another process was quicker
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _location(client: "MlflowClient", version: Version) -> str:
    return str(client.get_model_version_download_uri(version.name, str(version.version)))


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
