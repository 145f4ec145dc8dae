"""What a team does with DVC: remotes, shards without their raw images, experiments in a queue, results handed on."""

import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dvc_project import Checkout, Project, stages_run
from store_servers import s3_server

from detcore.config.data import Digits
from detcore.data.sources import make_digits

for needed in ("dvc", "dvc_s3", "moto"):
    pytest.importorskip(needed, reason=f"{needed} is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

RUN = "runs/digits-mask-rcnn"
SHARDS = "data/shards/digits"
MARK = "print('the code of', __file__, flush=True)\n"


@dataclass
class Team:
    first: Checkout
    origin: Path

    def clone(self, name: str) -> Checkout:
        folder = self.origin.with_name(name)
        subprocess.run(["git", "clone", "-q", self.origin, folder], check=True)
        return Checkout(folder)


@pytest.fixture(scope="module")
def team(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """A first member who evaluated a model, and pushed it to two remotes; the raw images are theirs alone."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    home = tmp_path_factory.mktemp("team")
    first = Project(repository, home / "first")
    make_digits(first.folder / "data/raw/digits", Digits(train=16, val=6, test=6), progress=False)
    recipe = first.folder / "conf/data/digits.yaml"
    recipe.write_text(re.sub(r"source:\n(  .*\n)+", "", recipe.read_text()))
    first.params()
    with pytest.MonkeyPatch.context() as patch, s3_server(patch) as bucket:
        first.run("dvc", "remote", "add", "-d", "disk", str(home / "remote"))
        first.run("dvc", "remote", "add", "bucket", f"{bucket}/dvc")
        # All of it: DVC applies an experiment only where every output has been there once.
        assert stages_run(first.run("dvc", "repro"))[:5] == ["fetch", "prepare", "tune", "train", "evaluate"]
        first.run("git", "add", "-A")
        first.run("git", "commit", "-qm", "results")
        first.run("dvc", "push")
        first.run("dvc", "push", "-r", "bucket")
        subprocess.run(["git", "clone", "-q", "--bare", first.folder, home / "origin"], check=True)
        first.run("git", "remote", "add", "origin", str(home / "origin"))
        yield Team(first, home / "origin")


def locked(checkout: Checkout) -> dict[str, dict[str, str]]:
    """Of each stage in dvc.lock, the hashes of what it read and wrote."""
    stages = yaml.safe_load((checkout.folder / "dvc.lock").read_text())["stages"]
    return {
        name: {f"{kind} {entry['path']}": entry["md5"] for kind in ("deps", "outs") for entry in stage.get(kind, ())}
        for name, stage in stages.items()
    }


def test_a_clone_pulls_all_and_finds_nothing_to_do(team: Team) -> None:
    clone = team.clone("second")
    clone.run("dvc", "pull", "evaluate", "--with-deps", "--allow-missing")
    assert stages_run(clone.run("dvc", "repro", "--allow-missing", "evaluate")) == []
    assert not (clone.folder / "data/raw").exists()
    weights = [Path(at.folder, RUN, "model/weights.safetensors").read_bytes() for at in (team.first, clone)]
    assert weights[0] == weights[1]
    with pytest.raises(AssertionError, match="is not here, but its shards are: dvc repro --allow-missing goes on"):
        clone.run("dvc", "repro", "evaluate")


def test_shards_from_a_bucket_train_without_their_raw_images(team: Team) -> None:
    clone = team.clone("third")
    clone.run("dvc", "pull", "-r", "bucket", "prepare")
    assert not (clone.folder / RUN).exists()
    before = locked(clone)
    # Another augmentation is another training, and the same shards.
    other = ["-S", "optim.lr=0.002", "-S", "data.train_transforms=[{type: resize_fixed, height: 96, width: 96}]"]
    assert stages_run(clone.run("dvc", "exp", "run", "--allow-missing", *other, "train")) == ["tune", "train"]
    assert not (clone.folder / "data/raw").exists()
    after = locked(clone)
    assert after["prepare"] == before["prepare"]
    assert after["train"][f"deps {SHARDS}"] == before["prepare"][f"outs {SHARDS}"]
    assert after["train"][f"outs {RUN}/model"] != before["train"][f"outs {RUN}/model"]


def test_experiments_of_the_queue_run_their_own_code_and_are_handed_on(team: Team) -> None:
    clone = team.clone("fourth")
    clone.run("dvc", "pull", "prepare")
    source = clone.folder / "detcore/launch/training.py"
    committed = source.read_text()
    source.write_text(committed + MARK)
    rates = {"low": "0.0005", "high": "0.004"}
    for name, rate in rates.items():
        clone.run("dvc", "exp", "run", "--queue", "--allow-missing", "-n", name, "-S", f"optim.lr={rate}", "evaluate")
    source.write_text(committed)  # what is edited meanwhile is not theirs
    clone.run("dvc", "exp", "run", "--run-all")
    for name in rates:
        log = clone.run("dvc", "queue", "logs", name)
        assert stages_run(log) == ["tune", "train", "evaluate"]
        assert re.search(r"the code of .*/\.dvc/tmp/exps/[^/]+/detcore/launch/training\.py", log)
    shown = json.loads(clone.run("dvc", "exp", "show", "--json"))
    experiments = {entry["name"]: entry["revs"][0]["data"] for entry in shown[1]["experiments"]}
    assert {name: found["params"]["params.yaml"]["data"]["optim"]["lr"] for name, found in experiments.items()} == {
        name: float(rate) for name, rate in rates.items()
    }
    losses = {name: found["metrics"]["report/val.json"]["data"]["val_loss"] for name, found in experiments.items()}
    assert losses["low"] != losses["high"]
    assert "optim.lr" in clone.run("dvc", "exp", "diff", "low", "high")
    assert "index.html" in clone.run("dvc", "plots", "diff", "low", "high")
    with closing(sqlite3.connect(clone.folder / "mlflow.db")) as database:  # not in the copies, which are gone
        found = database.execute("select value from params where key = 'optim.lr'").fetchall()
    assert {float(value) for (value,) in found} == set(map(float, rates.values()))

    clone.run("dvc", "exp", "push", "origin", "low")
    team.first.run("dvc", "exp", "pull", "origin", "low")
    team.first.run("dvc", "exp", "apply", "low")
    assert yaml.safe_load((team.first.folder / "params.yaml").read_text())["optim"]["lr"] == 0.0005
    assert stages_run(team.first.run("dvc", "repro", "evaluate")) == []
    assert json.loads((team.first.folder / RUN / "train.json").read_text())["val_loss"] == losses["low"]
