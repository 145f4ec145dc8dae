"""A real detector, stopped and resumed, and evaluated in batches of several sizes."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_training import (
    KeepDetections,
    assert_same_detections,
    checkpoint_of,
    faster_rcnn_config,
    same,
    scenes,
    train,
    write_shards,
)
from torch import nn

from detcore.config import Config
from detcore.engine import LocalWorker
from detcore.models.build import build_model

STEPS = {"engine__steps": 6, "engine__batch_size": 4, "engine__checkpoint_every": 2, "engine__log_every": 4}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("scenes"), train=10, val=5, make=scenes)


@dataclass(frozen=True, kw_only=True)
class StopAtStep(LocalWorker):
    """Asked once before each step: leaves before the given one."""

    asked: list[None]
    step: int

    def stop_requested(self) -> bool:
        self.asked.append(None)
        return len(self.asked) > self.step


def detector(config: Config) -> nn.Module:
    torch.manual_seed(0)
    return build_model(config.model, num_classes=2, load_weights=False)


def test_resumed_is_as_never_stopped(tmp_path: Path, shards: Path) -> None:
    whole, config = (faster_rcnn_config(tmp_path / run, shards, **STEPS) for run in ("whole", "resumed"))
    expected = train(detector(whole), whole)
    stopped = train(detector(config), config, worker=StopAtStep(device=torch.device("cpu"), asked=[], step=3))
    assert (stopped.step, stopped.stopped) == (3, "requested")
    result = train(detector(config), config)
    assert result.metrics == expected.metrics
    for step in (4, 6):
        assert same(checkpoint_of(config, step), checkpoint_of(whole, step))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_evaluation_batch_changes_nothing(tmp_path: Path, shards: Path, batch_size: int) -> None:
    """5 images in batches of 8, 3 or 1; val losses too, but for the draw of regions, which a batch's key is part of."""
    found = {}
    for size in (8, batch_size):
        config = faster_rcnn_config(
            tmp_path / str(size), shards, **{**STEPS, "engine__steps": 1}, engine__eval_batch_size=size
        )
        callback = KeepDetections()
        result = train(detector(config), config, callbacks=[callback])
        found[size] = callback.detections, result.metrics
    assert len(found[8][0]) > 50
    assert_same_detections(found[batch_size][0], found[8][0], tolerance=1e-4)
    aps = [{name: value for name, value in metrics.items() if "val" not in name} for _, metrics in found.values()]
    assert aps[0] == pytest.approx(aps[1], abs=1e-4)
