"""Loaders of noise."""

import pytest
from noise import MEAN, NUMBER, STD, config, samples

from detcore.config.data import DataConfig
from detcore.data import ShardedSplit, write_split
from detcore.data.build import build_loader


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    for seed, split in enumerate(("train", "val")):
        write_split(samples(NUMBER, seed), path, split=split, categories=["a", "b", "c"])
    return path


@pytest.fixture
def split(folder):
    opened = ShardedSplit.open(folder, "train")
    yield opened
    opened.close()


@pytest.fixture
def loaders(split):
    """Makes loaders that are closed in the end; keywords of the config and of build_loader alike."""
    made = []

    def make(**settings):
        defaults = {"train": True, "batch_size": 4, "seed": 3, "image_mean": MEAN, "image_std": STD, "device": "cpu"}
        of_config = {key: settings.pop(key) for key in tuple(settings) if key in DataConfig.model_fields}
        made.append(build_loader(settings.pop("split", split), config(**of_config), **(defaults | settings)))
        return made[-1]

    yield make
    for loader in made:
        loader.close()
