"""A small data set, and what the engine would tell callbacks."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from detcore.config import Config
from detcore.data import Sample, ShardedSplit, write_split

MakeConfig = Callable[..., Config]
"""`make_config(uri=…, run_dir=…, shards=…)`"""
MakeModel = Callable[..., Path]
"""`make_model(config, seed=…, box_ap=…)`"""

CATEGORIES = ("cat", "dog")
MODEL = {
    "type": "mask_rcnn",
    "name": "mask-rcnn",
    "backbone": {"type": "timm", "name": "resnet10t", "weights": "none", "norm": "bn"},
    "neck": {"channels": 8},
    "rpn": {"pre_nms_topk_test": 20, "post_nms_topk_test": 10},
    "box_head": {"fc_channels": 8},
    "mask_head": {"num_convs": 1, "conv_channels": 8},
    # Untrained, its scores are near 1/3: without a threshold there is something to look at.
    "selection": {"score_threshold": 0.0, "max_detections": 3},
}


def make_shards(folder: Path, *, seed: int = 0, splits: Sequence[str] = ("train", "val")) -> Path:
    """Splits of 3 images, 40 x 60 pixels, with one square object each."""
    ring = np.array([[10.0, 10.0], [30.0, 10.0], [30.0, 30.0], [10.0, 30.0]])
    for offset, split in enumerate(splits):
        noise = np.random.default_rng(seed + offset)
        samples = [
            Sample(
                image=noise.integers(0, 255, (40, 60, 3), dtype=np.uint8),
                boxes_xyxy=np.array([[10.0, 10.0, 30.0, 30.0]]),
                labels=np.array([index % 2]),
                polygons=[[ring]],
            )
            for index in range(3)
        ]
        write_split(samples, folder, split=split, categories=CATEGORIES, name="squares")
    return folder


def start_of(config: Config, *, step: int = 0) -> SimpleNamespace:
    """What the engine tells callbacks at the start, as far as tracking asks."""
    return SimpleNamespace(config=config, step=step, val_split=ShardedSplit.open(Path(config.data.shards), "val"))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
