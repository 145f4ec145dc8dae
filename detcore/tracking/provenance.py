"""Which code and which data a run was made of: git's commit and DVC's hash."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

COMMIT_VARIABLE = "DETCORE_GIT_COMMIT"
"""What says it where code travels without its repository, as `git describe --always --dirty --abbrev=40 --exclude '*'`
prints it."""


@dataclass(frozen=True)
class Commit:
    """The working folder's commit, and whether tracked files differ from it."""

    sha: str
    dirty: bool


def git_commit(folder: Path | None = None) -> Commit | None:
    """The commit that DETCORE_GIT_COMMIT states, else that checked out in `folder` (default: the working folder).

    Returns:
        None outside a repository or without git.

    Raises:
        ValueError: what is stated is none.
    """
    if stated := os.environ.get(COMMIT_VARIABLE):
        if not re.fullmatch(r"[0-9a-f]{40}(-dirty)?", stated):
            raise ValueError(
                f"{COMMIT_VARIABLE}={stated!r} is no commit: set it to what `git describe --always --dirty --abbrev=40 "
                "--exclude '*'` prints, or leave it out"
            )
        return Commit(sha=stated[:40], dirty=stated.endswith("-dirty"))
    sha = _git("rev-parse", "HEAD", folder=folder)
    if not sha:
        return None
    return Commit(sha=sha, dirty=bool(_git("status", "--porcelain", "--untracked-files=no", folder=folder)))


def dvc_hash(path: Path) -> str | None:
    """The hash under which the nearest dvc.lock above `path` records it as a stage's output; None where it does not."""
    path = path.absolute()
    for folder in path.parents:
        lock = folder / "dvc.lock"
        if lock.is_file():
            stages = (yaml.safe_load(lock.read_text()) or {}).get("stages", {})
            outputs = (output for stage in stages.values() for output in stage.get("outs", ()))
            wanted = path.relative_to(folder).as_posix()
            return next((output.get("md5") for output in outputs if output["path"].rstrip("/") == wanted), None)
    return None


def _git(*arguments: str, folder: Path | None) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
