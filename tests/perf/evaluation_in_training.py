"""What an evaluation in the middle takes of a training, waited for and in the background.

    python tests/perf/evaluation_in_training.py [--images 200] [--case boxes|masks] [--rounds 3] [--json FILE]

Trained is a stand-in of a detector on a GPU: its step keeps the host idle for as long as a batch of 16 takes at 260
images a second, the rate that `tests/perf/train.py` asks of Faster R-CNN, and its detecting as long as a third of that:
forward without backward, which is not counted. Its detections are 100 boxes an image, or 100 masks of 28 x 28 besides.
So what is counted is what evaluation itself does beside that: reading the images, taking detections over (masks are
pasted by the CPU here, which a GPU would do), matching, metrics, and loading the truth, for it is the first evaluation.
As many steps are taken for --images of val as COCO's 118,287 training images are for its 5,000: an epoch with one
evaluation in the middle. `fit` runs three ways by turns: without, with, and with it in the background; medians of the
seconds between the first log and the last.
"""

import argparse
import contextlib
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from detcore.config import Config
from detcore.data import Sample, write_split
from detcore.engine import FitResult, LocalWorker, Start, fit
from detcore.evaluation import Evaluation
from detcore.structures.batch import Batch, Detections

BAR = 3.0
BATCH, IMAGES_PER_SECOND = 16, 260.0
FORWARD_PER_SECOND = 3 * IMAGES_PER_SECOND
EPOCH_SHARE = 118_287 / 5_000
HEIGHT, WIDTH, CLASSES, OBJECTS, FOUND = 480, 640, 80, 7, 100
LOG_EVERY = 20
WAYS: dict[str, dict[str, Any]] = {
    "without": {},
    "waited for": {"evaluation": {"in_background": False}},
    "in the background": {"evaluation": {"in_background": True}},
}


class StandIn(nn.Module):
    """Takes a GPU's time and none of the host's; detects boxes, and masks if it is to, of a fixed random table."""

    def __init__(self, *, masks: bool) -> None:
        super().__init__()
        self.predicts = ("boxes", "masks") if masks else ("boxes",)
        self.num_classes = CLASSES
        self.weight = nn.Parameter(torch.zeros(1))
        generator = torch.Generator().manual_seed(0)
        low = torch.rand((64, FOUND, 2), generator=generator) * 40
        self.boxes = torch.cat((low, low + 4 + torch.rand((64, FOUND, 2), generator=generator) * 20), dim=2)
        self.scores = torch.rand((64, FOUND), generator=generator)
        self.labels = torch.randint(CLASSES, (64, FOUND), generator=generator)
        along = (torch.arange(28) - 13.5) / 14
        ellipse = torch.sigmoid(8 * (1 - along[:, None] ** 2 - along**2))
        self.masks = ellipse.expand(1, FOUND, 28, 28).contiguous() if masks else None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        time.sleep(BATCH / IMAGES_PER_SECOND)
        return {"loss": (self.weight**2).sum()}

    def detect(self, batch: Batch) -> Detections:
        time.sleep(float(batch.real.sum()) / FORWARD_PER_SECOND)
        rows = batch.sample_ids.clamp(min=0) % 64
        return Detections(
            boxes_xyxy=self.boxes[rows],
            scores=self.scores[rows],
            labels=self.labels[rows],
            valid=batch.real[:, None].expand(-1, FOUND),
            masks=None if self.masks is None else self.masks.expand(len(rows), -1, -1, -1),
        )


class Clock:
    """A callback: when the first log was, and the last."""

    def __init__(self) -> None:
        self.logged: list[float] = []

    def on_start(self, start: Start) -> None: ...

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.logged.append(time.perf_counter())

    def on_evaluate(self, step: int, metrics: Mapping[str, float], evaluation: Evaluation) -> None: ...

    def on_end(self, result: FitResult) -> None: ...

    @property
    def seconds(self) -> float:
        return self.logged[-1] - self.logged[0]


def photographs(count: int, *, seed: int) -> list[Sample]:
    """A smooth image again and again, with COCO's number of objects in it, each outlined by 24 points."""
    random = np.random.default_rng(seed)
    shades = np.linspace(0, 255, HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(shades).save(file, "JPEG")
    angles = np.arange(24) * (2 * np.pi / 24)
    unit = 0.5 + 0.5 * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    samples = []
    for index in range(count):
        low = random.uniform(0, (WIDTH - 60, HEIGHT - 60), (OBJECTS, 2))
        size = np.minimum(random.lognormal(3.6, 1, low.shape), (WIDTH, HEIGHT) - low)
        samples.append(
            Sample(
                image=file.getvalue(),
                boxes_xyxy=np.concatenate((low, low + size), axis=1),
                labels=random.integers(CLASSES, size=OBJECTS),
                polygons=[[start + unit * extent] for start, extent in zip(low, size, strict=True)],
                image_id=1_000_000 * seed + index,
            )
        )
    return samples


def config_of(folder: Path, images: int, settings: Mapping[str, Any]) -> Config:
    """A training that takes an epoch's steps, with one evaluation in the middle, or with none but the last."""
    steps = 2 * round(images * EPOCH_SHARE / BATCH / 2)
    resize = {"type": "resize_fixed", "height": 64, "width": 64}
    return Config.model_validate(
        {
            "name": "evaluation",
            "run_dir": str(folder / "run"),
            "seed": 0,
            "model": {"type": "own"},
            "data": {
                "name": "photographs",
                "format": "coco",
                "root": "",
                "shards": str(folder / "shards"),
                "train_transforms": [resize],
                "test_transforms": [resize],
            },
            "optim": {"lr": 0.1},
            "engine": {
                "steps": steps,
                "batch_size": BATCH,
                "device": "cpu",
                "eval_every": steps // 2 if settings else None,
                "validation_loss": False,
                "checkpoint_every": steps,
                "log_every": LOG_EVERY,
                **settings,
            },
            "cluster": {"type": "local"},
            "tracking": {"registered_name": "none"},
        }
    )


def seconds(folder: Path, images: int, *, masks: bool, settings: Mapping[str, Any]) -> float:
    """Of one training, from its first log to its last."""
    config, clock = config_of(folder, images, settings), Clock()
    shutil.rmtree(config.run_dir, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        fit(
            StandIn(masks=masks),
            config=config,
            shards=config.data.shards,
            worker=LocalWorker(device=torch.device("cpu")),
            callbacks=[clock],
        )
    return clock.seconds


def compare(case: str, images: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each way to evaluate: its share of the training without, in percent."""
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = [f"class {index}" for index in range(CLASSES)]
        for split, count, seed in (("train", BATCH, 1), ("val", images, 2)):
            write_split(photographs(count, seed=seed), folder / "shards", split=split, categories=names)
        for _ in range(rounds):
            for way, settings in WAYS.items():
                taken[way].append(seconds(folder, images, masks=case == "masks", settings=settings))
    without, *others = (statistics.median(values) for values in taken.values())
    rows = []
    for way, whole in zip(list(WAYS)[1:], others, strict=True):
        value = whole - images / FORWARD_PER_SECOND
        share = 100.0 * (value - without) / without
        row = {"case": f"{case}, {images:,} images x {FOUND}, {way}", "unit": "%", "ours": share, "theirs": None}
        rows.append({**row, "ratio": None, "bar": BAR, "met": share <= BAR, "seconds": value, "without": without})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--case", choices=("boxes", "masks"), default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    rows = []
    print(f"{'evaluation':50} {'of the epoch':>12} {'bar':>6} {'seconds':>9} {'without':>9}")
    for case in ("boxes", "masks") if arguments.case is None else (arguments.case,):
        for row in compare(case, arguments.images, arguments.rounds):
            rows.append(row)
            missed = "" if row["met"] else "  missed"
            print(
                f"{row['case']:50} {row['ours']:10.2f} % {row['bar']:4.0f} % {row['seconds']:9.2f} "
                f"{row['without']:9.2f}{missed}",
                flush=True,
            )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
