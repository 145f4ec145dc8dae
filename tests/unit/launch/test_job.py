"""What a rank builds."""

from pathlib import Path

import torch
from small_detectors import SMALL_RCNN
from tiny_training import tiny_config, write_shards

from detcore.config import FasterRCNN
from detcore.data import ShardedSplit
from detcore.launch.job import Job


def test_a_federated_loss_counts_the_training_images(tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", train=4, val=2)
    head = {"class_loss": "sigmoid", "federated": {"frequency_power": 2.0}}
    recipe = FasterRCNN(**{**SMALL_RCNN, "box_head": head})
    config = tiny_config(tmp_path / "run", shards).model_copy(update={"model": recipe})
    counts = ShardedSplit.open(shards, "train").images_by_class()
    assert sum(counts) > 0
    weights = Job(config=config).build_model().box_head.federated.weights
    assert torch.equal(weights, torch.tensor(counts, dtype=torch.float32).square())
