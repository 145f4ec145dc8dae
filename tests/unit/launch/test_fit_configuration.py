"""What `detcore.fit` makes of its arguments. Training itself is replaced."""

from pathlib import Path
from typing import Any

import pytest
from tiny_training import write_shards
from torch import nn

from detcore.config import Config, load
from detcore.launch import fit as fit_module


class MyDetector(nn.Module):
    num_classes = 3


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Config, dict[str, Any]]]:
    """The configurations and other arguments that `train` was called with."""
    calls: list[tuple[Config, dict[str, Any]]] = []
    monkeypatch.setattr(fit_module, "train", lambda config, **others: calls.append((config, others)))
    return calls


def test_a_model_of_ones_own_names_the_run(fitted: list[tuple[Config, dict[str, Any]]]) -> None:
    model = MyDetector()
    fit_module.fit(model=model, data="digits", config=["optim.lr=0.5", "cluster=local"])
    config, others = fitted[0]
    assert (config.model.type, config.model.name, config.model.num_classes) == ("own", "mydetector", 3)
    assert config.name == "digits-mydetector"
    assert config.run_dir == "runs/digits-mydetector"
    assert config.tracking.registered_name == "digits-mydetector"
    assert (config.optim.lr, config.cluster.type) == (0.5, "local")
    assert others == {"model": model, "transform": None}


def test_a_folder_of_shards(fitted: list[tuple[Config, dict[str, Any]]], shards: Path) -> None:
    fit_module.fit(data=shards, config=["model=faster_rcnn_lite0"])
    config = fitted[0][0]
    assert (config.data.name, config.data.shards) == ("squares", str(shards))
    assert config.name == "squares-faster-rcnn-lite0"


@pytest.mark.parametrize("name", ["with space", "a'b", "x=y,z", "{brace}", r"a\\b\c"])
def test_a_folder_may_be_called_anything(
    fitted: list[tuple[Config, dict[str, Any]]], shards: Path, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / name
    folder.symlink_to(shards)
    fit_module.fit(data=folder)
    assert fitted[0][0].data.shards == str(folder)


def test_a_whole_data_section(fitted: list[tuple[Config, dict[str, Any]]]) -> None:
    data = load(["data=coco", "data.name=mine", "data.root=/somewhere", "data.num_buckets=2"]).data
    fit_module.fit(data=data, config=["model=faster_rcnn_lite0"])
    assert fitted[0][0].data == data
    assert fitted[0][0].name == "mine-faster-rcnn-lite0"


def test_a_whole_configuration(fitted: list[tuple[Config, dict[str, Any]]]) -> None:
    config = load(["seed=7"])
    fit_module.fit(config=config)
    assert fitted[0][0] == config


def test_what_does_not_go_together_is_said(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="list of overrides"):
        fit_module.fit(data="digits", config=load())
    with pytest.raises(ValueError, match=r"dataset\.json is missing"):
        fit_module.fit(data=tmp_path)
