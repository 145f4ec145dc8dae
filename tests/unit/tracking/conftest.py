"""One database and one data set for all tests of tracking: the first database takes seconds."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from tracking_samples import CATEGORIES, MODEL, MakeConfig, MakeModel, make_shards

from detcore.config import Config, MaskRCNN
from detcore.data import ShardedSplit
from detcore.data.description import read_description
from detcore.engine.publish import describe, publish
from detcore.models import build_model
from detcore.tracking.client import connect


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URI of a database."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    connect(uri).search_experiments()
    return uri


@pytest.fixture(scope="session")
def closed_port() -> str:
    """An http address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards") / "squares")


@pytest.fixture(scope="session")
def dataset(shards: Path) -> dict[str, Any]:
    return read_description(shards)


@pytest.fixture
def make_config(store: str, shards: Path, tmp_path: Path, request: pytest.FixtureRequest) -> MakeConfig:
    """`make_config(uri=…, run_dir=…, **data)`: names of this test's own in the common database."""
    own = request.node.name.replace("[", "-").replace("]", "")

    def make(
        *, uri: str | None = store, run_dir: Path = tmp_path / "run", shards: Path = shards, **changes: Any
    ) -> Config:
        transforms = [{"type": "resize_fixed", "height": 64, "width": 64}]
        return Config.model_validate(
            {
                "name": "squares-mask-rcnn",
                "run_dir": str(run_dir),
                "model": MODEL,
                "data": {
                    "name": "squares",
                    "format": "coco",
                    "root": "raw",
                    "shards": str(shards),
                    "train_transforms": transforms,
                    "test_transforms": transforms,
                },
                "optim": {"lr": 0.01},
                "engine": {"steps": 4, "batch_size": 2},
                "cluster": {"type": "local"},
                "tracking": {"uri": uri, "experiment": own, "registered_name": own, "system_metrics": False},
                **changes,
            }
        )

    return make


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> MakeModel:
    """`make_model(config, seed=…, box_ap=…)`: a published folder of an untrained Mask R-CNN."""

    def make(config: Config, *, seed: int = 0, box_ap: float = 50.0) -> Path:
        torch.manual_seed(seed)
        assert isinstance(config.model, MaskRCNN)
        model = build_model(config.model, num_classes=len(CATEGORIES), load_weights=False)
        split = ShardedSplit.open(Path(config.data.shards), "val")
        folder = tmp_path_factory.mktemp("published") / "model"
        return publish(
            folder,
            model.state_dict(),
            description=describe(model, config=config, split=split),
            metrics={"box_ap": box_ap, "box_ap50": box_ap + 10, "mask_ap": box_ap - 5},
        )

    return make
