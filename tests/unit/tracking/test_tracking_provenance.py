import subprocess
from pathlib import Path

import pytest

from detcore.tracking.provenance import dvc_hash, git_commit


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_and_whether_tracked_files_differ(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    (tmp_path / "untracked").write_text("")
    commit = git_commit(tmp_path)
    assert commit is not None
    assert commit.sha == git(tmp_path, "rev-parse", "HEAD")
    assert not commit.dirty
    (tmp_path / "code.py").write_text("2")
    changed = git_commit(tmp_path)
    assert changed is not None
    assert changed.dirty


def test_no_commit_outside_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit(tmp_path) is None


@pytest.mark.parametrize("dirty", ["", "-dirty"])
def test_where_code_travels_without_its_repository_the_environment_says_the_commit(
    dirty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    git(tmp_path, "tag", "v1")
    (tmp_path / "code.py").write_text("2" if dirty else "1")
    stated = git(tmp_path, "describe", "--always", "--dirty", "--abbrev=40", "--exclude", "*")
    monkeypatch.setenv("DETCORE_GIT_COMMIT", stated)
    assert git_commit(Path("/")) == git_commit(tmp_path)
    commit = git_commit(Path("/"))
    assert commit is not None and commit.sha == git(tmp_path, "rev-parse", "HEAD") and commit.dirty == bool(dirty)


def test_a_stated_commit_that_is_none_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETCORE_GIT_COMMIT", "v1.2")
    with pytest.raises(ValueError, match=r"DETCORE_GIT_COMMIT='v1\.2' is no commit: set it to"):
        git_commit()


def test_dvcs_hash_of_an_output(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(
        "schema: '2.0'\nstages:\n  prepare:\n    outs:\n    - path: data/squares\n      md5: 0ab1.dir\n"
    )
    assert dvc_hash(tmp_path / "data" / "squares") == "0ab1.dir"
    assert dvc_hash(tmp_path / "data" / "other") is None
