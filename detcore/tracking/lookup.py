"""A model's name to the published folder behind it."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from detcore.tracking.client import (
    connect_existing,
    in_one_line,
    patient,
    without_password,
)
from detcore.tracking.published import ARTIFACT
from detcore.tracking.version import find_version

if TYPE_CHECKING:
    from mlflow import MlflowClient

_FILES = ("weights.safetensors", "model.json")


def resolve(name: str, *, uri: str | None = None) -> Path:
    """The folder of a registered or logged model: `weights.safetensors` and `model.json`.

    Files of a local store are used where they are, others are downloaded, once: below DETCORE_CACHE, else
    ~/.cache/detcore. MLflow's model loader is not used, so nothing in the model is run.

    Args:
        name: `name@alias`, `name/version`, `name` (its latest version that is not archived), each
            also with `models:/` before it, or `runs:/RUN_ID` (the run's model).
        uri: the store; None takes MLFLOW_TRACKING_URI, else the database in the working folder.

    Raises:
        ValueError: if there is no such model, alias, version or run; it says what there is.
        ConnectionError: if MLflow is out of reach.
    """
    try:
        client, uri = connect_existing(uri)
    except ValueError as error:
        raise ValueError(f"{name}: {error}, or give a published folder") from error
    with in_one_line(uri):
        if name.startswith("runs:/"):
            location = _of_run(client, name.removeprefix("runs:/").split("/")[0])
        else:
            version = find_version(client, name, uri=uri)
            location = client.get_model_version_download_uri(version.name, str(version.version))
        return _files(f"{location}/artifacts/{ARTIFACT}", name=name, uri=uri)


def _of_run(client: "MlflowClient", run_id: str) -> str:
    outputs = client.get_run(run_id).outputs
    if outputs is None or not outputs.model_outputs:
        raise ValueError(f"runs:/{run_id}: this run has logged no model")
    return str(client.get_logged_model(outputs.model_outputs[-1].model_id).artifact_location)


def _files(artifact_uri: str, *, name: str, uri: str) -> Path:
    """The published folder at an artifact store, on this machine."""
    address = urlsplit(artifact_uri)
    if address.scheme in ("", "file"):
        folder = Path(url2pathname(address.path))
        if not all((folder / file).is_file() for file in _FILES):
            raise ValueError(f"{name}: {folder} does not hold {' and '.join(_FILES)} (any more)")
        return folder
    cache = Path(os.environ.get("DETCORE_CACHE", Path.home() / ".cache" / "detcore")) / "models"
    folder = cache / hashlib.sha256(f"{without_password(uri)} {artifact_uri}".encode()).hexdigest()[:32]
    if not folder.is_dir():
        _download(artifact_uri, folder, uri=uri)
    return folder


def _download(artifact_uri: str, folder: Path, *, uri: str) -> None:
    """Fetches the two files, and nothing else that may lie beside them; `folder` appears when both are there."""
    from mlflow import artifacts

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with patient():
            for file in _FILES:
                artifacts.download_artifacts(f"{artifact_uri}/{file}", dst_path=str(partial), tracking_uri=uri)
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was quicker
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
