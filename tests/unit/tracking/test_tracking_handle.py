import errno
import os
from pathlib import Path

import pytest

from detcore.tracking import RunHandle


def handle_in(folder: Path) -> RunHandle:
    return RunHandle(uri="sqlite:///mlflow.db", run_id="1", run_dir=str(folder), key="k", opening={"name": "n" * 9999})


def test_round_trip(tmp_path: Path) -> None:
    handle = handle_in(tmp_path)
    handle.save()
    assert RunHandle.load(tmp_path) == handle
    assert [path.name for path in tmp_path.iterdir()] == ["tracking.json"]


@pytest.mark.parametrize("text", ["", '{"uri": "sqlite', "[]", '{"uri": null}', "\ud800"])
def test_a_broken_file_is_named_and_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str) -> None:
    path = tmp_path / "tracking.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert RunHandle.load(tmp_path) is None
    assert [str(path) in message for message in caplog.messages] == [True]


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = handle_in(tmp_path)
    handle.save()

    def full(path: Path, text: str) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*/tracking\.json'"):
        handle.save()
    assert RunHandle.load(tmp_path) == handle
    assert [path.name for path in tmp_path.iterdir()] == ["tracking.json"]


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("https://ann:word@mlflow.example.org/ml/", "https://mlflow.example.org/ml/#/runs/f00d"),
        ("http://10.0.0.1:5000", "http://10.0.0.1:5000/#/runs/f00d"),
        ("sqlite:////srv/mlflow.db", "f00d in sqlite:////srv/mlflow.db"),
        ("postgresql://ann:word@db/mlflow", "f00d in postgresql://db/mlflow"),
    ],
)
def test_a_runs_address_is_for_a_browser_and_has_no_password(uri: str, address: str) -> None:
    assert RunHandle(uri=uri, run_id="f00d", run_dir="r", key="k", opening={}).address == address
