import os
from pathlib import Path

import pytest

from detcore.config import TrackingConfig
from detcore.tracking.client import connect, one_line, patient, tracking_uri, without_password


def settings(uri: str | None) -> TrackingConfig:
    return TrackingConfig(uri=uri, registered_name="any")


def test_the_configs_uri_comes_before_the_environments_and_that_before_the_database_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(settings(None)) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(settings(None)) == tracking_uri() == "http://server:5000"
    assert tracking_uri(settings("sqlite:////data/runs.db")) == "sqlite:////data/runs.db"


def test_a_relative_database_does_not_depend_on_the_workers_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(settings("sqlite:///here.db")) == f"sqlite:///{tmp_path}/here.db"


def test_an_experiment_of_dvcs_queue_writes_to_its_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmp1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    assert tracking_uri(settings(None)) == f"sqlite:///{copy}/mlflow.db"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))  # as DVC does
    assert tracking_uri(settings(None)) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(settings("sqlite:////data/runs.db")) == "sqlite:////data/runs.db"
    monkeypatch.chdir(tmp_path)
    assert tracking_uri(settings(None)) == f"sqlite:///{tmp_path}/mlflow.db"


@pytest.mark.parametrize("uri", ["mlruns", "file:///data/mlruns", "/data/mlruns"])
def test_a_folder_is_refused_with_the_way_out(uri: str) -> None:
    with pytest.raises(ValueError, match=r"sqlite:///mlflow\.db"):
        tracking_uri(settings(uri))


def test_a_closed_port_is_a_connection_error_that_hides_the_password(closed_port: str) -> None:
    uri = closed_port.replace("//", "//user:secret@")
    with pytest.raises(ConnectionError, match="cannot be reached") as caught:
        connect(uri)
    assert "secret" not in str(caught.value)
    assert without_password(uri) == closed_port


def test_uploads_wait_longer_and_only_while_they_last(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    connect(store)
    before = int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"])
    with patient():
        assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) > before
    assert int(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]) == before <= 10


def test_messages_are_one_short_line() -> None:
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("x" * 1000))) == 300


def test_a_database_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    """MLflow itself would try again for 100 seconds."""
    with pytest.raises(ConnectionError, match="cannot be reached"):
        connect(f"sqlite:///{tmp_path}")  # a folder
    with pytest.raises(ConnectionError, match="cannot be reached"):
        connect("postgresql://user:secret@127.0.0.1:1/runs")


def test_a_wrong_password_is_told_by_the_settings_to_mend() -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import UNAUTHENTICATED

    said = one_line(MlflowException("error code 401. Response body: 'You are …'", error_code=UNAUTHENTICATED))
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in said and "401" not in said
