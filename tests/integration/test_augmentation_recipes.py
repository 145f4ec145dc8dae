"""Every recipe of conf/data/augmentation trains by its command: 3 steps on the CPU, evaluated and kept."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RECIPES = sorted((Path(__file__).resolve().parents[2] / "conf" / "data" / "augmentation").glob("*.yaml"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("shards")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_trains(recipe: Path, shards: Path, shared: Path, repository: Path, tmp_path: Path) -> None:
    overrides = [
        "data=coco_mini",
        f"data.root={shared / 'data' / 'coco_mini'}",
        f"data.shards={shards}",
        f"+data/augmentation={recipe.stem}",
        "data.test_transforms=[{type: resize_fixed, height: 96, width: 128}]",
        "data.unmixed_last_steps=1",
        "model.backbone.weights=none",
        "engine=default",
        "engine.steps=3",
        "engine.batch_size=2",
        "engine.eval_every=3",
        "engine.device=cpu",
        "cluster=local",
        "tracking.enabled=false",
        f"run_dir={tmp_path / 'run'}",
    ]
    done = subprocess.run(
        [sys.executable, "pipelines/train.py", *overrides],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "run" / "model" / "model.json").is_file()
