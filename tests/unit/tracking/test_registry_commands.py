"""The commands about the registry, as they are typed."""

import json
from pathlib import Path

import pytest
from tracking_samples import MakeConfig, MakeModel

import detcore
from detcore.cli.main import main
from detcore.tracking import register


@pytest.fixture
def name(make_config: MakeConfig, make_model: MakeModel, store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Versions with 51 and 50 on val; the first is the champion."""
    config = make_config()
    for seed, box_ap in enumerate((51.0, 50.0)):
        register(make_model(config, seed=seed, box_ap=box_ap), config=config, metrics_test={"box_ap": box_ap - 3})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    monkeypatch.setenv("COLUMNS", "200")
    return config.tracking.registered_name


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    """What the command prints, on one line; on the error stream where it fails."""
    assert main(words) == code
    out, err = capsys.readouterr()
    assert not (out if code else err)
    return " ".join((err if code else out).split())


def test_the_registry_is_listed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "models", "--registry", "--alias", "champion")
    assert f"{name} 2 " in said
    assert "box_ap 50.00 47.00 champion 1 (val 51.00)" in said
    said = run(capsys, "models", "--registry", name)
    assert said.index(f"{name}/2") < said.index(f"{name}/1")
    assert "box_ap 51.00 48.00 squares champion" in said
    (found,) = json.loads(run(capsys, "models", "--registry", name, "--alias", "champion", "--json"))
    assert (found["version"], found["val"]["box_ap"], found["aliases"]) == (1, 51.0, ["champion"])
    assert "of the registry: add --registry" in run(capsys, "models", "--versions", code=2)
    assert run(capsys, "models", "--registry", "--data", "circles") == "nothing registered that fits"


def test_promoting_archiving_deleting(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused = run(capsys, "promote", f"{name}/2", code=2)
    assert refused == (
        f"detcore promote: {name}/2 does not become champion: box_ap on val is 50.00; the champion, version 1, has "
        "51.00 (--force moves it all the same)"
    )
    said = run(capsys, "promote", f"{name}/2", "--force")
    assert said.startswith(f"{name}@champion is version 2, before version 1 (forced: box_ap on val is 50.00")
    moved = json.loads(run(capsys, "promote", f"{name}/1", "--json"))
    assert (moved["by"], moved["from_version"], moved["to_version"], moved["forced"]) == ("ada", 2, 1, False)
    assert f"{name}/1 is {name}@champion" in run(capsys, "archive", f"{name}/1", code=2)
    assert run(capsys, "archive", f"{name}/2") == f"{name}/2 is archived"
    assert run(capsys, "archive", "--undo", f"{name}/2") == f"{name}/2 is no longer archived"
    assert "first: detcore archive" in run(capsys, "delete", f"{name}/2", code=2)
    run(capsys, "archive", f"{name}/2")
    assert run(capsys, "delete", f"{name}/2") == f"{name}/2 is no longer registered"


def test_lineage_is_said(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(capsys, "lineage", name)
    assert said.startswith(f"{name}/2 ")
    assert "box_ap val 50.00 test 47.00 run none: it was not tracked, or is deleted" in said
    (only,) = json.loads(run(capsys, "lineage", f"{name}@champion", "--json"))
    assert (only["version"], only["data"], only["parent_sha256"]) == (f"{name}/1", "squares", None)


def test_weights_that_are_not_those_registered_do_not_load(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One byte of a registered file is changed where it lies; pull and load refuse, and nothing is left behind."""
    from detcore.tracking import resolve

    weights = resolve(f"{name}@champion") / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    said = run(capsys, "pull", f"{name}@champion", str(tmp_path / "copy"), code=2)
    assert "SHA-256" in said and "fetch the model again" in said
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="SHA-256"):
        detcore.load(f"{name}@champion", device="cpu")
