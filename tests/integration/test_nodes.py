"""Four workers on four nodes of a real Ray cluster: network namespaces with their own addresses. gloo, CPU."""

import csv
from pathlib import Path

import pytest
import torch
from node_cluster import NodeCluster
from tiny_training import faster_rcnn_config, scenes, write_shards

from detcore.config import Config
from detcore.launch.training import train

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(400)]

FOUR = {"type": "ray", "num_workers": 4, "placement": "strict_spread"}
STEPS = 10


def configuration(folder: Path, run: str, **changes: object) -> Config:
    return faster_rcnn_config(folder / run, folder / "scenes", tracking__enabled=False, engine__steps=STEPS, **changes)


def losses(run_dir: Path) -> dict[str, torch.Tensor]:
    with (run_dir / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("loss")]
    return {name: torch.tensor([float(row[name]) for row in rows], dtype=torch.float64) for name in names}


def test_four_nodes_give_the_losses_of_one_process(nodes: NodeCluster, tmp_path: Path) -> None:
    from detcore.models.build import build_model

    write_shards(tmp_path / "scenes", train=24, val=4, make=scenes)
    for run, cluster in (("one", {"type": "local"}), ("four", FOUR)):
        config = configuration(tmp_path, run, cluster=cluster)
        torch.manual_seed(0)
        model = build_model(config.model, num_classes=2, load_weights=False)
        own = config.model_copy(update={"model": config.model})
        with nodes.within_head():
            assert train(own, model=model).step == STEPS
    one, four = losses(tmp_path / "one"), losses(tmp_path / "four")
    for name, expected in one.items():
        print(name, (four[name] - expected).abs().tolist())
    for name, expected in one.items():
        torch.testing.assert_close(four[name], expected, rtol=0, atol=1e-5)
