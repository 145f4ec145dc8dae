"""The DVC pipeline on a copy of the project: its stages, what reruns when, and experiments."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from dvc_project import Project, stages_run

pytest.importorskip("dvc", reason="dvc is not installed")

STAGES = ["fetch", "prepare", "tune", "train", "evaluate", "report", "register", "export"]


@pytest.fixture(scope="module")
def project(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    yield Project(repository, tmp_path_factory.mktemp("project"))


def test_the_stages_resolve_in_order(project: Project) -> None:
    assert project.run("dvc", "stage", "list", "--name-only").split() == STAGES
    edges = set(re.findall(r'"(\w+)" -> "(\w+)"', project.run("dvc", "dag", "--dot")))
    assert set(pairwise(STAGES)) <= edges
    config = project.run("dvc", "config", "--list")
    assert "core.analytics=false" in config
    assert "remote." not in config


def test_dvc_composes_as_make_params_does(project: Project, tmp_path: Path) -> None:
    """`dvc exp run` calls this function of DVC's; the resolver of conf_sha256 must be known there too."""
    script = (
        "import sys; from dvc.utils.hydra import compose_and_dump\n"
        "compose_and_dump(sys.argv[1], sys.argv[2], None, 'config', sys.argv[2], ['optim.lr=0.5'])"
    )
    composed = tmp_path / "params.yaml"
    project.run(sys.executable, "-c", script, str(composed), str(project.folder / "conf"))
    found = yaml.safe_load(composed.read_text())
    expected = yaml.safe_load((project.folder / "params.yaml").read_text())
    expected["optim"]["lr"] = 0.5
    assert found == expected


def test_training_depends_on_the_weights_that_it_starts_from(project: Project) -> None:
    script = "from dvc.repo import Repo; print(*(dep for dep in Repo().stage.load_one(name='train').deps), sep='\\n')"
    (project.folder / "given").mkdir()
    (project.folder / "given" / "weights.safetensors").touch()
    weights = "given/weights.safetensors"
    for overrides, given in (
        (["model=published", "model.source=given", "model.name=given"], "given"),
        (["model=published", "model.source=name@alias"], None),
        ([f"model.weights={weights}"], weights),
        (["model=mask_rcnn_r50_fpn", f"model.backbone.weights={weights}"], weights),
        ([], None),
    ):
        project.params(*overrides)
        deps = set(project.run(sys.executable, "-c", script).split())
        assert {dep for dep in deps if dep.startswith("given")} == ({given} if given else set())
        assert "pipelines/train.py" in deps


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_way(project: Project) -> None:
    assert stages_run(project.run("dvc", "repro")) == STAGES
    run_dir = project.folder / "runs" / "digits-mask-rcnn"
    assert json.loads((run_dir / "registered.json").read_text())["version"] == 1
    assert "version 1" in project.run(sys.executable, "pipelines/register.py", "--params", "params.yaml", "--report")
    project.run("git", "add", "-A")
    project.run("git", "commit", "-qm", "results")

    started = time.monotonic()
    assert stages_run(project.run("dvc", "repro")) == []
    assert time.monotonic() - started < 60  # about 1 s; the bar is 10 s on a quiet machine

    _change_conf(project)
    _interrupt_and_resume(project, run_dir)

    output = project.run("dvc", "exp", "run", "-S", "model=faster_rcnn_lite0", "-S", "optim.lr=0.0005")
    assert stages_run(output) == STAGES[2:]
    assert "report/test.json" in project.run("dvc", "metrics", "diff")
    assert "index.html" in project.run("dvc", "plots", "show")
    assert "evaluate" in project.run("dvc", "dag")


def _change_conf(project: Project) -> None:
    """What is edited in conf/ is not passed over; a comment changes nothing but conf/ itself."""
    with (project.folder / "conf/config.yaml").open("a") as file:
        file.write("# edited\n")
    with pytest.raises(AssertionError, match="run 'make params'"):
        project.run("dvc", "repro")
    project.params()
    assert stages_run(project.run("dvc", "repro")) == ["fetch"]


def _interrupt_and_resume(project: Project, run_dir: Path) -> None:
    """Another learning rate and more steps: train and what follows run; Ctrl-C in train, then the same again."""
    project.params("optim.lr=0.002", "engine.steps=40", "engine.eval_every=40")
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=project.folder,
        env=project.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("step 3/40"):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait() != 0
    assert stages_run("".join(lines)) == ["tune", "train"]
    assert "starting anew" in "".join(lines)
    assert not (run_dir / "model").exists()

    output = project.run("dvc", "repro")
    assert "resuming at step" in output
    assert stages_run(output) == STAGES[3:]
    steps = [int(line.split(",")[0]) for line in (run_dir / "history.csv").read_text().splitlines()[1:]]
    assert steps == list(range(1, 41))
    assert stages_run(project.run("dvc", "repro")) == []
    assert (
        hashlib.sha256((run_dir / "model" / "weights.safetensors").read_bytes()).hexdigest()
        == (json.loads((run_dir / "model" / "model.json").read_text())["weights_sha256"])
    )
