"""What the words of `detcore train` and of the other stages mean."""

from pathlib import Path

import pytest
import yaml

from detcore.config import load
from detcore.launch import stages
from detcore.launch.training import CONFIG


@pytest.fixture(autouse=True)
def here(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETCORE_CONF", str(repository / "conf"))
    monkeypatch.chdir(tmp_path)


def write_run() -> Path:
    """A run's folder, as the start of a training leaves it."""
    config = load(["data=digits", "optim.lr=0.0123"])
    run = Path(config.run_dir)
    run.mkdir(parents=True)
    (run / CONFIG).write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return run


def test_settings_alone() -> None:
    assert stages.settings("optim.lr=0.5", "data=bccd") == load(["optim.lr=0.5", "data=bccd"])
    assert stages.settings() == load()


def test_a_folder_of_yolo_is_known_and_named() -> None:
    for part in ("images", "labels"):
        Path("my cells", part, "train").mkdir(parents=True)
    Path("my cells", "labels", "train", "one.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    Path("my cells", "images", "train", "one.jpg").touch()
    Path("my cells", "data.yaml").write_text("train: images/train\nnames: [a, b]\n")
    config = stages.settings("my cells", "engine=finetune", "data.name=cells")
    assert (config.data.format, config.data.root, config.data.name) == ("yolo", "my cells", "cells")
    assert config.engine.steps == 300 and config.run_dir == "runs/cells-faster-rcnn-lite0"


def test_a_run_keeps_its_settings() -> None:
    run = write_run()
    assert stages.settings(run) == load(["data=digits", "optim.lr=0.0123"])
    with pytest.raises(ValueError, match="has the settings of the run; for other settings"):
        stages.settings(run, "optim.lr=1")


def test_a_composed_file(tmp_path: Path) -> None:
    run = write_run()
    assert stages.settings(params=run / CONFIG).optim.lr == 0.0123
    with pytest.raises(ValueError, match="is composed already"):
        stages.settings("optim.lr=1", params=run / CONFIG)


def test_what_is_not_trained_says_how_to() -> None:
    run = write_run()
    with pytest.raises(ValueError, match=f"{run}: no trained model there .yet.; detcore train {run} goes on"):
        stages.evaluate(run)
    with pytest.raises(ValueError, match="with the same words makes one"):
        stages.register("data=bccd")


def test_a_folder_that_is_none() -> None:
    with pytest.raises(ValueError, match="nowhere: no such folder"):
        stages.train("nowhere")
