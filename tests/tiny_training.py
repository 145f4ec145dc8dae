"""A detector and a data set small enough to train in a second."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from detcore.config import Config
from detcore.data import Sample, write_split
from detcore.engine import FitResult, LocalWorker, Start, fit
from detcore.evaluation import Evaluation
from detcore.losses.normalizer import global_mean_divisor
from detcore.structures.batch import Batch, Detections

CPU = torch.device("cpu")
CATEGORIES = ("bright", "dark")
SIZE = 32


class TinyDetector(nn.Module):
    """Finds one box an image. Batch norm and dropout, so that buffers and torch's generator matter.

    Always starts from the same weights.
    """

    def __init__(self, *, num_classes: int = len(CATEGORIES), dropout: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_classes = num_classes
        self.passes = 0
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4)
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8 * 16, 4 + num_classes)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.targets is not None
        self.passes += self.training
        boxes, logits = self(batch)
        images = global_mean_divisor(batch.real.sum().to(boxes.dtype))
        box = (boxes - batch.targets.boxes_xyxy[:, 0]).abs().mean(dim=1) / SIZE
        label = nn.functional.cross_entropy(logits, batch.targets.labels[:, 0], reduction="none")
        losses = {"box": box, "label": label}
        return {name: torch.where(batch.real, loss, 0).sum() / images for name, loss in losses.items()}

    def detect(self, batch: Batch) -> Detections:
        boxes, logits = self(batch)
        scores, labels = logits.softmax(dim=1).max(dim=1)
        return Detections(
            boxes_xyxy=boxes.float().clamp(0, SIZE)[:, None],
            scores=scores.float()[:, None],
            labels=labels[:, None],
            valid=batch.real[:, None],
        )

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        features = self.head(self.dropout(self.backbone(batch.images).flatten(1)))
        low, high = features[:, :2].sigmoid() * SIZE / 2, features[:, 2:4].sigmoid() * SIZE / 2
        return torch.cat((low, low + high), dim=1), features[:, 4:]


def samples(count: int, *, seed: int) -> list[Sample]:
    """A bright or dark square in each image; ids from 1000 x seed on."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(count):
        label = int(random.integers(2))
        x, y = random.integers(0, SIZE // 2, size=2)
        image = random.integers(100, 140, size=(SIZE, SIZE, 3), dtype=np.uint8)
        image[y : y + 12, x : x + 12] = 40 if label else 220
        box = np.array([[x, y, x + 12, y + 12]], dtype=np.float64)
        found.append(Sample(image=image, boxes_xyxy=box, labels=np.array([label]), image_id=1000 * seed + index))
    return found


def scenes(count: int, *, seed: int) -> list[Sample]:
    """Images of several shapes with one to four squares each, for detectors that find more than one box."""
    random = np.random.default_rng(seed)
    found = []
    for index in range(count):
        height, width = random.integers(48, 97, size=2)
        image = random.integers(100, 140, size=(height, width, 3), dtype=np.uint8)
        labels = random.integers(2, size=random.integers(1, 5))
        corners = [(random.integers(0, width - 20), random.integers(0, height - 20)) for _ in labels]
        for (x, y), label in zip(corners, labels, strict=True):
            image[y : y + 20, x : x + 20] = 40 if label else 220
        boxes = np.array([[x, y, x + 20, y + 20] for x, y in corners], dtype=np.float64)
        found.append(Sample(image=image, boxes_xyxy=boxes, labels=labels, image_id=1000 * seed + index))
    return found


def write_shards(folder: Path, *, train: int = 16, val: int = 6, make: Callable[..., list[Sample]] = samples) -> Path:
    for split, count, seed in (("train", train, 1), ("val", val, 2)):
        write_split(make(count, seed=seed), folder, split=split, categories=CATEGORIES, name="squares")
    return folder


def faster_rcnn_config(run_dir: Path, shards: Path, **changes: Any) -> Config:
    """A Faster R-CNN with a ResNet-50 of few channels and frozen norms: 20 steps of `scenes`, each logged.

    To be built with load_weights=False: it is small enough to learn on top of frozen random stages.
    """
    return tiny_config(
        run_dir,
        shards,
        **{
            "model": {
                "type": "faster_rcnn",
                "name": "small",
                "backbone": {
                    "type": "resnet",
                    "stem_channels": 8,
                    "res2_channels": 16,
                    "width_per_group": 8,
                    "weights": "absent.safetensors",
                },
                "neck": {"channels": 16},
                "rpn": {
                    "anchors": {"sizes": [[16], [24], [32], [48], [64]]},
                    "pre_nms_topk_train": 100,
                    "pre_nms_topk_test": 50,
                    "post_nms_topk_train": 50,
                    "post_nms_topk_test": 30,
                },
                "roi_sampling": {"samples_per_image": 64},
                "box_head": {"fc_channels": 32, "sampling_ratio": 2},
                "selection": {"score_threshold": 0.0},  # a detector hardly trained is to detect something
            },
            "data__train_transforms": [
                {"type": "resize_shortest_edge", "sizes": [56, 64], "max_size": 96},
                {"type": "horizontal_flip"},
            ],
            "data__test_transforms": [{"type": "resize_shortest_edge", "sizes": [64], "max_size": 96}],
            "data__num_buckets": 3,
            "optim__lr": 0.005,
            "engine__steps": 20,
            "engine__batch_size": 8,
            "engine__eval_every": None,
            "engine__log_every": 1,
            **changes,
        },
    )


def tiny_config(run_dir: Path, shards: Path, **changes: Any) -> Config:
    """A configuration of ten steps; keywords are dotted names with __ for the dot."""
    resize = {"type": "resize_fixed", "height": SIZE, "width": SIZE}
    values: dict[str, Any] = {
        "name": "tiny",
        "run_dir": str(run_dir),
        "seed": 3,
        "model": {"type": "own"},
        "data": {
            "name": "squares",
            "format": "coco",
            "root": "",
            "shards": str(shards),
            "threads": 1,
            "train_transforms": [resize, {"type": "horizontal_flip"}],
            "test_transforms": [resize],
        },
        "optim": {"type": "sgd", "lr": 0.05, "warmup_steps": 3, "clip_norm": 5.0},
        "engine": {
            "steps": 10,
            "batch_size": 4,
            "device": "cpu",
            "eval_every": 4,
            "eval_batch_size": 4,
            "checkpoint_every": 3,
            "log_every": 4,
        },
        "cluster": {"type": "local"},
        "tracking": {"registered_name": "tiny"},
    }
    for name, value in changes.items():
        *sections, key = name.split("__")
        target = values
        for section in sections:
            target = target[section]
        target[key] = value
    return Config(**values)


def train(model: nn.Module, config: Config, **arguments: Any) -> FitResult:
    """`fit` in this process, on the CPU."""
    worker = arguments.pop("worker", LocalWorker(device=CPU))
    return fit(model, config=config, shards=config.data.shards, worker=worker, **arguments)


def checkpoint_of(config: Config, step: int) -> dict[str, Any]:
    """All that a checkpoint holds, by file; what is measured in seconds left out."""
    folder = Path(config.run_dir) / "checkpoints" / f"step-{step:08d}"
    record = json.loads((folder / "record.json").read_text())
    for row in record["history"]:
        del row["images_per_second"], row["data_wait_seconds"]
    contents = {
        "record": {name: record[name] for name in ("state", "meter", "history", "evaluations")},
        "training": torch.load(folder / "training.pt", map_location="cpu", weights_only=True),
    }
    for path in folder.glob("*.safetensors"):
        contents[path.name] = load_file(path)
    return contents


def same(first: Any, second: Any) -> bool:
    """Equality to the last bit, through dicts and lists."""
    if isinstance(first, Tensor):
        return isinstance(second, Tensor) and first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


class KeepDetections:
    """A callback that keeps what the last evaluation detected, as COCO results."""

    def on_start(self, start: Start) -> None: ...

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def on_evaluate(self, step: int, metrics: Mapping[str, float], evaluation: Evaluation) -> None:
        self.detections = evaluation.detections

    def on_end(self, result: FitResult) -> None: ...


def assert_same_detections(found: list[dict[str, Any]], expected: list[dict[str, Any]], *, tolerance: float) -> None:
    """The same objects in the same order, up to `tolerance` in scores and, in pixels, boxes."""
    for name in ("image_id", "category_id"):
        assert [row[name] for row in found] == [row[name] for row in expected]
    for name in ("score", "bbox"):
        values = [torch.tensor([row[name] for row in rows], dtype=torch.float64) for rows in (found, expected)]
        torch.testing.assert_close(*values, rtol=0, atol=tolerance)


@dataclass
class StopAfter:
    """A worker that is asked to leave once `model` has trained on so many batches in this process."""

    model: TinyDetector
    passes: int
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    device: torch.device = CPU

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None: ...

    def stop_requested(self) -> bool:
        return self.model.passes >= self.passes

    def beat(self, step: int, *, bounded: bool) -> None: ...
