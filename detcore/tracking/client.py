"""The way to MLflow: which server or database, how long to wait for it, and what counts as its fault."""

import logging
import os
import socket
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from detcore.config import TrackingConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient
    from mlflow.entities import Run

DEFAULT_URI = "sqlite:///mlflow.db"
PROBE_SECONDS = 3.0

# MLflow's own defaults wait 120 s and try 7 times: an absent server would hold up the start of a training for minutes.
# The URL prints and progress bars would tear the training's progress display.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
# What MLflow answers when it is there and will never take a request, however often it is repeated.
_REFUSALS = frozenset(
    {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
)


def tracking_uri(config: TrackingConfig | None = None) -> str:
    """Where runs and models are: the config's uri, else MLFLOW_TRACKING_URI, else a database in the working folder.

    A relative sqlite path is made absolute, so that workers in other folders write to the same file. In the copy of a
    repository in which DVC runs an experiment of its queue, and which goes away after it, the repository is meant.

    Raises:
        ValueError: for a folder, which MLflow 3 no longer takes.
    """
    stated = config.uri if config is not None else None
    uri = stated or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    if urlsplit(uri).scheme in ("", "file"):
        raise ValueError(f"tracking uri {uri!r}: MLflow 3 takes no folder; give a database or a server: {DEFAULT_URI}")
    database = sqlite_path(uri)
    return uri if database is None or uri.startswith("sqlite:////") else f"sqlite:///{database}"


def _working_folder() -> Path:
    folder, repository = Path.cwd(), os.environ.get("DVC_ROOT")
    if repository and folder.is_relative_to(Path(repository, ".dvc", "tmp", "exps").resolve()):
        return Path(repository)
    return folder


def without_password(uri: str) -> str:
    """The URI as it may be shown and stored: user and password left out."""
    address = urlsplit(uri)
    return address._replace(netloc=address.netloc.rpartition("@")[2]).geturl() if "@" in address.netloc else uri


def sqlite_path(uri: str) -> Path | None:
    """The database file of a sqlite URI, absolute; None for any other URI."""
    path = uri.removeprefix("sqlite:///").partition("?")[0]
    return _working_folder() / path if uri.startswith("sqlite:///") else None


def connect(uri: str) -> "MlflowClient":
    """A client of the store at `uri`. Creates a sqlite database that does not exist yet (some seconds).

    Raises:
        ConnectionError: within seconds, if a server accepts no connection or a database file cannot be opened.
    """
    try:
        _probe(uri)
    except OSError as error:
        raise ConnectionError(f"MLflow at {without_password(uri)} cannot be reached: {error}") from error
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    # Imported late: it takes two seconds, and reads its settings from the environment.
    import mlflow

    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    # It shows a traceback of each error that it raises again, which the caller tells in a line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return mlflow.MlflowClient(tracking_uri=uri)


def connect_existing(uri: str | None) -> "tuple[MlflowClient, str]":
    """A client of a registry that is there, and its uri: looking must not make a database.

    Args:
        uri: None takes MLFLOW_TRACKING_URI, else the database in the working folder.

    Raises:
        ValueError: if there is no such database.
        ConnectionError: as `connect`.
    """
    uri = uri or tracking_uri()
    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        raise ValueError(f"no registry at {database}; set MLFLOW_TRACKING_URI to one")
    return connect(uri), uri


def _probe(uri: str) -> None:
    """Fails at once where MLflow would try again for minutes."""
    address, database = urlsplit(uri), sqlite_path(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        database.open("rb" if database.exists() else "ab").close()
    elif address.hostname is not None:
        port = address.port or _PORTS.get(address.scheme.partition("+")[0])
        if port is not None:
            socket.create_connection((address.hostname, port), timeout=PROBE_SECONDS).close()


def find_run(client: "MlflowClient", run_id: str) -> "Run | None":
    """The run, or None if it is deleted or unknown."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if not is_refusal(error):
            raise
        return None
    return run if run.info.lifecycle_stage == "active" else None


@contextmanager
def patient() -> "Iterator[None]":
    """Waits longer for answers while files are uploaded: a server may have to pass on hundreds of megabytes."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ.get(name, _SETTINGS[name])
    os.environ[name] = str(max(120, int(before)))
    try:
        yield
    finally:
        os.environ[name] = before


@contextmanager
def in_one_line(uri: str) -> "Iterator[None]":
    """Turns what MLflow and its database raise into a line: ValueError where they refuse, else ConnectionError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError) as error:
        kind = ValueError if is_refusal(error) else ConnectionError
        raise kind(f"MLflow at {without_password(uri)}: {one_line(error)}") from error


def is_refusal(error: Exception) -> bool:
    """Whether MLflow will never take this request, as opposed to being out of reach."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in _REFUSALS
    return isinstance(error, (FileNotFoundError, TypeError, ValueError))


def one_line(error: Exception, *, limit: int = 300) -> str:
    """The error's message on one line, cut to `limit` characters."""
    if getattr(error, "error_code", None) == "UNAUTHENTICATED":
        return "it takes no such user and password: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
