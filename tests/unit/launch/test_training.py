"""`train` in this process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_training import TinyDetector, write_shards

from detcore.config import load
from detcore.config.sampling import ImageWeightSampling, ListedSubset
from detcore.data import Sample
from detcore.launch.fit import fit
from detcore.launch.training import train, with_absolute_paths

SHORT = ["cluster=local", "engine=default", "engine.steps=3", "engine.batch_size=4", "engine.log_every=1"]
SHORT += ["engine.eval_every=3", "tracking.enabled=false", "seed=1"]


def test_fit_trains_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: set[int | None] = set()

    def watch(sample: Sample, rng: np.random.Generator) -> Sample:
        seen.add(sample.image_id)
        return sample

    shards = write_shards(tmp_path / "shards", train=8)
    sizes = [f"data.{split}_transforms=[{{type: resize_fixed, height: 32, width: 32}}]" for split in ("train", "test")]
    result = fit(model=TinyDetector(), data=shards, config=[*SHORT, *sizes], transform=watch)
    assert (result.step, result.stopped) == (3, None)
    assert result.model_dir == tmp_path / "runs" / "squares-tinydetector" / "model"
    assert (result.model_dir / "weights.safetensors").is_file()
    assert len((tmp_path / "runs/squares-tinydetector/history.csv").read_text().splitlines()) == 1 + 3
    assert seen == set(range(1000, 1008))  # the ids that the samples were given


def test_data_is_prepared_first_where_there_are_no_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["data.source.train=4", "data.source.val=2", "data.source.test=2", "data.source.size=64"]
    config = load([*SHORT, *small, "model=faster_rcnn_lite0", "model.num_classes=3"])
    with pytest.raises(ValueError, match=r"model\.num_classes is 3, but the data has 10 classes"):
        train(config)
    assert (tmp_path / "data/shards/digits/dataset.json").is_file()


def test_paths_of_the_configuration_hold_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = ["data.sampling={type: image_weights, file: w.csv}", "data.train_subset={type: list, file: some/part.txt}"]
    config = load(["model=mask_rcnn_r50_fpn", "+model.backbone.weights=r50.safetensors", *files])
    absolute = with_absolute_paths(config)
    assert absolute.data.sampling == ImageWeightSampling(file=str(tmp_path / "w.csv"))
    assert absolute.data.train_subset == ListedSubset(file=str(tmp_path / "some/part.txt"))
    assert absolute.run_dir == str(tmp_path / config.run_dir)
    assert absolute.data.shards == str(tmp_path / config.data.shards)
    assert absolute.model.type == "mask_rcnn"
    assert absolute.model.backbone.type == "resnet"
    assert absolute.model.backbone.weights == str(tmp_path / "r50.safetensors")


def test_ray_and_mlflow_are_imported_only_where_they_are_used() -> None:
    script = "import sys, detcore.launch.fit; print([m for m in ('ray', 'mlflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_rays_controller_imports_no_model() -> None:
    script = (
        "import sys, detcore.launch.ray_train; print([m for m in ('models', 'data') if f'detcore.{m}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
