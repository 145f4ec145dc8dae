"""The same global batch on one rank or on two; and what two ranks must agree on. Plain processes over gloo, no Ray."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import (
    KeepDetections,
    TinyDetector,
    assert_same_detections,
    checkpoint_of,
    faster_rcnn_config,
    same,
    scenes,
    tiny_config,
    train,
    write_shards,
)

from detcore.models.build import build_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the two processes of rank.py leave behind, all scenarios in one go."""
    folder = tmp_path_factory.mktemp("ranks")
    write_shards(folder / "scenes", train=24, val=5, make=scenes)
    write_shards(folder / "squares")
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path]), "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("rank.py"))
    ranks = [
        subprocess.Popen(
            [sys.executable, script, str(rank), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for rank in ranks:
            output, _ = rank.communicate(timeout=240)
            assert rank.returncode == 0, output[-3000:]
    finally:
        for rank in ranks:
            rank.kill()
    return folder


def outcome(folder: Path, scenario: str) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{scenario}-{rank}.json").read_text()) for rank in (0, 1)]


def losses(run_dir: Path) -> dict[str, torch.Tensor]:
    """Each loss of the 20 steps."""
    with (run_dir / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 21)]
    names = [name for name in rows[0] if name.startswith("loss")]
    assert len(names) == 5  # the sum, two of the RPN, two of the box head
    return {name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64) for name in names}


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
def test_one_rank_or_two(folder: Path, precision: str) -> None:
    config = faster_rcnn_config(folder / f"one-{precision}", folder / "scenes", engine__precision=precision)
    torch.manual_seed(0)
    callback = KeepDetections()
    result = train(build_model(config.model, num_classes=2, load_weights=False), config, callbacks=[callback])
    one, two = losses(Path(config.run_dir)), losses(folder / f"two-{precision}")
    assert one["loss"][-1] < 0.9 * one["loss"][0]  # it does learn
    for name, expected in one.items():
        if precision == "fp64":
            torch.testing.assert_close(two[name], expected, rtol=1e-8, atol=1e-12)
        else:
            torch.testing.assert_close(two[name][0], expected[0], rtol=1e-5, atol=1e-7)
            torch.testing.assert_close(two[name], expected, rtol=1e-2, atol=1e-3)
    ranks = outcome(folder, precision)
    for rank in ranks:
        assert rank["metrics"] == pytest.approx(result.metrics, rel=1e-8 if precision == "fp64" else 1e-2, abs=1e-4)
    if precision == "fp64":
        assert len(callback.detections) > 50
        assert_same_detections(ranks[0]["detections"], callback.detections, tolerance=1e-5)  # kept as float32


@pytest.mark.parametrize("name", ["resumed", "background"])  # evaluations waited for, and beside the steps
def test_a_stop_of_one_rank_is_a_stop_of_both_and_resumed_exactly(folder: Path, name: str) -> None:
    first, second = outcome(folder, name)
    assert first == second
    assert first["stopped"] == [5, "requested"] and first["step"] == 10
    whole, resumed = (tiny_config(folder / run, folder / "squares") for run in (f"{name}-whole", name))
    for step in (9, 10):
        assert same(checkpoint_of(resumed, step), checkpoint_of(whole, step))


def test_figures_are_the_same_in_the_background(folder: Path) -> None:
    assert outcome(folder, "background")[0]["metrics"] == outcome(folder, "resumed")[0]["metrics"]


def test_one_rank_goes_on_from_a_checkpoint_of_two(folder: Path) -> None:
    assert [rank["step"] for rank in outcome(folder, "elastic")] == [5, 5]
    model = TinyDetector()
    assert train(model, tiny_config(folder / "elastic", folder / "squares")).step == 10
    assert model.passes == 5


def test_nan_on_one_rank_ends_both_and_blames_its_images(folder: Path) -> None:
    images = [1000 + sample for sample in json.loads((folder / "poisoned.json").read_text())]
    assert len(images) == 2  # of the four of a step
    for rank in outcome(folder, "nan"):
        assert rank["error"].startswith(f"NonFiniteLossError: step 2: box not finite, on images {images}; stopped")


def test_a_failure_to_save_ends_both(folder: Path) -> None:
    first, second = outcome(folder, "disk")
    assert first["error"].startswith("CheckpointError: ") and "cannot save this checkpoint" in first["error"]
    assert second["error"].startswith("RuntimeError: rank 0 failed: CheckpointError: ")
