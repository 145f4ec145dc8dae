"""One of two ranks on this machine, each a plain process: `python rank.py RANK FOLDER`. What the test asks is below.

Every scenario leaves what happened to this rank in FOLDER/<scenario>-<rank>.json.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tiny_training import KeepDetections, StopAfter, TinyDetector, faster_rcnn_config, tiny_config, train
from torch import Tensor

from detcore.config import Config
from detcore.engine import LocalWorker
from detcore.models.build import build_model
from detcore.structures.batch import Batch

RANK, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
WORKER = LocalWorker(device=torch.device("cpu"), rank=RANK, world_size=2, local_rank=RANK)


class Poisoned(TinyDetector):
    """NaN on rank 1 alone, in the third step."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        losses = super().losses(batch)
        if RANK == 1 and self.training and self.passes == 3:
            losses["box"] = losses["box"] * torch.nan
            (FOLDER / "poisoned.json").write_text(json.dumps(batch.sample_ids.tolist()))
        return losses


def faster_rcnn(precision: str) -> dict[str, Any]:
    config = faster_rcnn_config(FOLDER / f"two-{precision}", FOLDER / "scenes", engine__precision=precision)
    torch.manual_seed(0)
    callback = KeepDetections()
    result = train(
        build_model(config.model, num_classes=2, load_weights=False), config, worker=WORKER, callbacks=[callback]
    )
    return {"metrics": result.metrics, "detections": callback.detections if RANK == 0 else None}


def resumed(name: str, **changes: Any) -> dict[str, Any]:
    """Once through; and once stopped by rank 1 alone, then resumed."""
    train(TinyDetector(), tiny(f"{name}-whole", **changes), worker=WORKER)
    model = TinyDetector()
    worker = StopAfter(model, passes=5 if RANK == 1 else 1000, rank=RANK, world_size=2, local_rank=RANK)
    stopped = train(model, tiny(name, **changes), worker=worker)
    torch.manual_seed(99 + RANK)
    result = train(TinyDetector(), tiny(name, **changes), worker=WORKER)
    return {"stopped": [stopped.step, stopped.stopped], "step": result.step, "metrics": result.metrics}


def elastic() -> dict[str, Any]:
    """Stopped, for one rank alone to go on."""
    model = TinyDetector()
    return {"step": train(model, tiny("elastic"), worker=StopAfter(model, 5, rank=RANK, world_size=2)).step}


def nan() -> dict[str, Any]:
    return failure(Poisoned(), tiny("nan"))


def full_disk() -> dict[str, Any]:
    """A file where rank 0 wants a folder stands in for any failure to write."""
    config = tiny("disk")
    if RANK == 0:
        run_dir = Path(config.run_dir)
        run_dir.mkdir()
        (run_dir / "checkpoints").write_text("")
    return failure(TinyDetector(), config)


def failure(model: TinyDetector, config: Config) -> dict[str, Any]:
    try:
        train(model, config, worker=WORKER)
    except (ValueError, OSError, RuntimeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


def tiny(run: str, **changes: Any) -> Config:
    return tiny_config(FOLDER / run, FOLDER / "squares", **changes)


if __name__ == "__main__":
    torch.set_num_threads(1)
    store = f"file://{FOLDER / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=RANK, world_size=2, timeout=timedelta(seconds=120))
    scenarios = {
        "fp64": lambda: faster_rcnn("fp64"),
        "fp32": lambda: faster_rcnn("fp32"),
        "resumed": lambda: resumed("resumed"),
        "background": lambda: resumed("background", engine__evaluation={"in_background": True}),
        "elastic": elastic,
        "nan": nan,
        "disk": full_disk,
    }
    for name, scenario in scenarios.items():
        (FOLDER / f"{name}-{RANK}.json").write_text(json.dumps(scenario()))
    dist.destroy_process_group()
