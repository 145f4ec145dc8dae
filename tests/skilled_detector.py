"""A detector of one parameter, whose AP says how far it is trained: so that a search's outcome is known beforehand."""

import os
import time
from pathlib import Path
from typing import Any

import torch
from tiny_training import CATEGORIES, tiny_config
from torch import Tensor, nn

from detcore.config import Config
from detcore.structures.batch import Batch, Detections

MISSED_PX = 9.0
"""How far its boxes are off before it has learned."""


class SkilledDetector(nn.Module):
    """Boxes are the true ones, moved by (1 - skill) x MISSED_PX; the loss is (1 - skill)^2.

    So a step of plain SGD multiplies 1 - skill by 1 - 2 lr.

    Args:
        seconds: that a step takes at least.
        meet: a folder in which `count` processes wait for each other before their first step.
    """

    def __init__(self, *, seconds: float = 0.0, meet: Path | None = None, count: int = 2) -> None:
        super().__init__()
        self.seconds, self.meet, self.count = seconds, meet, count
        self.num_classes = len(CATEGORIES)
        self.skill = nn.Parameter(torch.zeros(()))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        if self.training:
            self._wait_for_others()
            time.sleep(self.seconds)
        return {"lack": (1.0 - self.skill) ** 2}

    def _wait_for_others(self) -> None:
        if self.meet is None:
            return
        self.meet.mkdir(exist_ok=True)
        (self.meet / str(os.getpid())).touch()
        until = time.monotonic() + 200.0
        while len(list(self.meet.iterdir())) < self.count and time.monotonic() < until:
            time.sleep(0.05)
        self.meet = None

    def detect(self, batch: Batch) -> Detections:
        targets = batch.targets
        assert targets is not None
        boxes = targets.boxes_xyxy + (1.0 - self.skill) * MISSED_PX
        scores = targets.valid.to(boxes.dtype)
        return Detections(boxes_xyxy=boxes, scores=scores, labels=targets.labels, valid=targets.valid)


def skill_after(*rates: float) -> float:
    """What it has learned after steps with these learning rates."""
    lack = 1.0
    for rate in rates:
        lack *= 1.0 - 2.0 * rate
    return 1.0 - lack


def skilled_search(run_dir: Path, shards: Path, *, tune: dict[str, Any], **changes: Any) -> Config:
    """Twelve steps of plain SGD, looked at every third, tracked in a database beside the run's folder."""
    return tiny_config(
        run_dir,
        shards,
        **{
            "optim": {"type": "sgd", "lr": 0.01, "momentum": 0.0, "schedule": {"type": "multistep", "milestones": []}},
            "engine__steps": 12,
            "engine__eval_every": 3,
            "engine__checkpoint_every": 3,
            "engine__log_every": 1,
            # A machine short of memory ends trials, which are then started again.
            "cluster": {"type": "ray", "num_workers": 1, "cpus_per_worker": 1, "max_failures": 3},
            "tracking__uri": f"sqlite:///{run_dir.parent}/mlflow.db",
            "tune": tune,
            **changes,
        },
    )
