"""The zoo with a real MLflow server on loopback, whose files are reached through it alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_tracking_server import Server
from tiny_training import CATEGORIES, TinyDetector, samples, tiny_config, write_shards

import detcore
from detcore.cli.main import main
from detcore.config import Config
from detcore.data import write_split
from detcore.launch import evaluate_published, register_published, train

pytestmark = pytest.mark.slow
PASSWORD = "c0rrect-h0rse"


@pytest.fixture
def server(closed_port: str, tmp_path: Path) -> Iterator[str]:
    """Its address; nobody is asked for a password, but there is one to lose."""
    (tmp_path / "server").mkdir()
    server = Server(closed_port, tmp_path / "server")
    server.start()
    yield closed_port.replace("//", f"//ada:{PASSWORD}@")
    server.stop()


def registered(folder: Path, shards: Path, uri: str, *, seed: int) -> Config:
    config = tiny_config(folder, shards, seed=seed, engine__steps=2)
    tracking = config.tracking.model_copy(update={"uri": uri, "registered_name": "tiny", "enabled": True})
    config = config.model_copy(update={"tracking": tracking})
    train(config, model=TinyDetector())
    evaluate_published(config, model=TinyDetector())
    register_published(config)
    return config


def test_the_whole_way_over_http(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    shards = write_shards(tmp_path / "shards", train=4, val=2)
    write_split(samples(3, seed=3), shards, split="test", categories=CATEGORIES, name="squares")
    for seed in (0, 1):
        registered(tmp_path / f"run-{seed}", shards, server, seed=seed)
    capsys.readouterr()
    monkeypatch.setenv("DETCORE_CACHE", str(tmp_path / "cache"))  # not before: the operators' is the machine's

    def answer(*words: str) -> object:
        assert main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    (model,) = answer("models", "--registry")
    assert (model["name"], model["latest"]["version"], model["aliases"]["champion"]["version"]) == ("tiny", 2, 1)
    assert [version["version"] for version in answer("models", "--registry", "tiny")] == [2, 1]
    assert answer("promote", "tiny/2", "--force")["by"] != ""
    found = answer("diff", "tiny/1", "tiny/2", "--sets", "20")
    assert found["note"] == "95 % intervals from 20 draws of the 3 test images, the same for both"
    assert found["config"]["seed"] == [0, 1]
    (origin,) = answer("lineage", "tiny@champion")
    assert (origin["version"], origin["experiment"] is None) == ("tiny/2", False)
    answer("pull", "tiny@champion", str(tmp_path / "pulled"))
    assert detcore.load(tmp_path / "pulled", device="cpu", model=TinyDetector()).labels == CATEGORIES
    answer("archive", "tiny/1")
    answer("delete", "tiny/1")
    leaks = [path for path in tmp_path.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()]
    assert not leaks
