"""examples/matrix: every model on every data set, in a folder of its own."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from dvc_project import Checkout, stages_run

from detcore.config.data import Digits
from detcore.data.sources import make_digits

pytest.importorskip("dvc", reason="dvc is not installed")

SETTINGS = """
engine=demo engine.steps=1 engine.batch_size=2 engine.eval_every=1 engine.monitor=box_ap cluster=local
tracking.enabled=false
'data.train_transforms=[{type: resize_fixed, height: 96, width: 96}]'
'data.test_transforms=[{type: resize_fixed, height: 96, width: 96}]'
"""


@pytest.fixture
def matrix(repository: Path, tmp_path: Path) -> Checkout:
    """A copy of the example in a git repository, with two small data sets."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    folder = Path(shutil.copytree(repository / "examples/matrix", tmp_path / "matrix"))
    project = Checkout(folder, package=repository)
    for seed, name in enumerate(("cells", "parts")):
        make_digits(folder / "raw" / name, Digits(train=4, val=4, test=4, size=96, seed=seed), progress=False)
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params |= {"models": ["faster_rcnn_lite0"], "settings": " ".join(SETTINGS.split())}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    project.run("git", "init", "-q")
    project.run("dvc", "init", "-q")
    return project


def test_the_stages_are_the_product(matrix: Checkout) -> None:
    stages = matrix.run("dvc", "stage", "list", "--name-only").split()
    pairs = ["cells-faster_rcnn_lite0", "parts-faster_rcnn_lite0"]
    assert stages == [
        *("prepare@cells", "prepare@parts"),
        *(f"{stage}@{pair}" for stage in ("train", "evaluate") for pair in pairs),
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_what_changes_reruns_for_its_own_data_alone(matrix: Checkout) -> None:
    pair = "cells-faster_rcnn_lite0"
    output = matrix.run("dvc", "repro")
    assert len(stages_run(output)) == 6
    metrics = json.loads(matrix.run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert set(metrics) == {f"metrics/{data}-faster_rcnn_lite0.json" for data in ("cells", "parts")}
    assert all("box_ap" in found["data"] for found in metrics.values())
    assert stages_run(matrix.run("dvc", "repro")) == []
    next(iter((matrix.folder / "raw/cells/images").glob("train*"))).touch()
    assert stages_run(matrix.run("dvc", "repro")) == [], "DVC looks at what is in a file, not at its time"
    labels = matrix.folder / "raw/cells/annotations/instances_train.json"
    document = json.loads(labels.read_text())
    document["annotations"].pop()
    labels.write_text(json.dumps(document))
    assert stages_run(matrix.run("dvc", "repro")) == ["prepare@cells", f"train@{pair}", f"evaluate@{pair}"]
