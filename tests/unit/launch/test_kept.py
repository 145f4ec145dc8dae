from pathlib import Path

import pytest
from tiny_training import tiny_config

from detcore.launch.kept import is_kept
from detcore.launch.registration import register_published
from detcore.launch.training import train


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a job that was submitted with its files."""
    folder = tmp_path / "session" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


def test_what_is_in_the_copy_goes_with_it_and_nothing_else(copy: Path, tmp_path: Path) -> None:
    assert not is_kept("runs/a") and not is_kept(copy / "data")
    assert is_kept(tmp_path) and is_kept("s3://team/data") and is_kept("/srv/working_dir_files/a")


def test_a_run_in_the_copy_is_refused_before_anything_is_written(copy: Path, tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "run", tmp_path / "shards", tracking__enabled=False)
    with pytest.raises(ValueError, match=r"run_dir = runs/a is in the copy of the submitted folder .*: set run_dir to"):
        train(config.model_copy(update={"run_dir": "runs/a"}))
    assert not any(copy.iterdir())


def test_a_database_in_the_copy_is_refused(copy: Path, tmp_path: Path) -> None:
    changes = {"tracking__enabled": True, "tracking__uri": "sqlite:///mlflow.db"}
    config = tiny_config(tmp_path / "run", tmp_path / "shards", **changes)
    for begin in (train, register_published):
        with pytest.raises(ValueError, match=r"MLflow's database mlflow\.db is in the copy of .*: run `mlflow server`"):
            begin(config)
    assert not any(copy.iterdir())
