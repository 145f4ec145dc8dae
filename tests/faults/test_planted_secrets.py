"""Passwords and keys of the environment and of the tracking address are in nothing that a run leaves or says."""

import logging
import sqlite3
from pathlib import Path

import pytest
from tiny_training import CATEGORIES, TinyDetector, samples, tiny_config, write_shards

from detcore.config import Config
from detcore.data import write_split
from detcore.launch import evaluate_published, register_published, train

PASSWORD = "c0rrect-h0rse"
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "b4ttery-st4ple",
    "AWS_SESSION_TOKEN": "s3ssion-t0ken",
    "MLFLOW_TRACKING_PASSWORD": "mlfl0w-passw0rd",
    "MLFLOW_TRACKING_TOKEN": "mlfl0w-t0ken",
    "RAY_AUTH_TOKEN": "r4y-t0ken",
}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = write_shards(tmp_path / "shards", train=4, val=2)
    write_split(samples(2, seed=3), folder, split="test", categories=CATEGORIES, name="squares")
    return folder


def tracked(run_dir: Path, shards: Path, uri: str) -> Config:
    config = tiny_config(run_dir, shards, engine__steps=2, tracking__enabled=True)
    tracking = config.tracking.model_copy(update={"uri": uri, "registered_name": "tiny"})
    return config.model_copy(update={"tracking": tracking})


def leaks(folder: Path) -> list[str]:
    """Which file has which secret, whatever its format: compressed ones are stored or zlib'd text of ours alone."""
    secrets = {"password": PASSWORD, **PLANTED}
    return [
        f"{path.relative_to(folder)}: {name}"
        for path in folder.rglob("*")
        if path.is_file()
        for name, secret in secrets.items()
        if secret.encode() in path.read_bytes()
    ]


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, secret in PLANTED.items():
        monkeypatch.setenv(name, secret)


def test_a_password_in_the_address_is_neither_kept_nor_said(
    tmp_path: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """The server is out of reach: all that is to be sent waits in the run's folder, and warnings name the address."""
    caplog.set_level(logging.INFO)
    config = tracked(tmp_path / "run", shards, f"http://ada:{PASSWORD}@127.0.0.1:9")
    train(config, model=TinyDetector())
    evaluate_published(config, model=TinyDetector())
    with pytest.raises(ConnectionError, match=r"MLflow at http://127\.0\.0\.1:9 cannot be reached"):
        register_published(config)
    assert (tmp_path / "run" / "tracking-buffer.jsonl").is_file()
    said = caplog.text + "".join(capfd.readouterr())
    assert "http://127.0.0.1:9" in said
    assert not [secret for secret in (PASSWORD, *PLANTED.values()) if secret in said]
    assert not leaks(tmp_path)


def test_a_run_and_its_registered_model_have_no_secrets(tmp_path: Path, shards: Path) -> None:
    config = tracked(tmp_path / "run", shards, f"sqlite:///{tmp_path / 'mlflow.db'}")
    train(config, model=TinyDetector())
    evaluate_published(config, model=TinyDetector())
    register_published(config)
    assert list(tmp_path.rglob("card.html")), "the version's files are among what is searched"
    assert not leaks(tmp_path)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        (params,) = database.execute("select count(*) from params").fetchone()
    assert params > 50, "the run's parameters are among what is searched"
