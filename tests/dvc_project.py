"""A copy of the project's pipeline, for tests that run DVC in it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

TINY = {
    "conf/config.yaml": [("- cluster: ray", "- cluster: local")],
    "conf/data/digits.yaml": [("train: 1200", "train: 16"), ("val: 200", "val: 6"), ("test: 200", "test: 6")],
}
TINY_ENGINE = "steps: 4\nbatch_size: 4\neval_every: 2\nlog_every: 1\ncheckpoint_every: 1\nmonitor: box_ap\n"


class Checkout:
    """A working folder of a git repository with DVC's stages.

    Attributes:
        package: the folder of the package `detcore`, unless it is in the working folder.
    """

    def __init__(self, folder: Path, *, package: Path | None = None) -> None:
        self.folder = folder
        self.package = package or folder

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        author = {
            f"GIT_{role}_{what}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        return {**os.environ, **author, "PYTHONPATH": str(self.package), "PATH": path, "OMP_NUM_THREADS": "1"}

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=2400
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def params(self, *overrides: str) -> None:
        self.run(sys.executable, "-m", "detcore.config", "params.yaml", *overrides)


class Project(Checkout):
    """A copy of what DVC needs, in a git repository of its own, with a configuration of a few steps."""

    def __init__(self, repository: Path, folder: Path) -> None:
        super().__init__(folder)
        for name in ("conf", "pipelines", "detcore", "csrc", ".dvc", "dvc.yaml", ".dvcignore", ".gitignore"):
            source, target = repository / name, folder / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
            else:
                shutil.copy(source, target)
        for name, changes in TINY.items():
            path = folder / name
            text = path.read_text()
            for before, after in changes:
                assert before in text, f"{name} does not say {before!r} any more"
                text = text.replace(before, after)
            path.write_text(text)
        (folder / "conf/engine/demo.yaml").write_text(TINY_ENGINE)
        self.params()
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
            self.run("git", *command)


def stages_run(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage ")]
