from pathlib import Path
from typing import Any

import pytest
from tracking_samples import MakeConfig, MakeModel

from detcore.launch.starting import with_architecture
from detcore.tracking import register, resolve
from detcore.tracking.client import connect


@pytest.fixture
def name(make_config: MakeConfig, make_model: MakeModel) -> str:
    """Two versions; the first is the champion."""
    config = make_config()
    register(make_model(config, seed=0, box_ap=60.0), config=config)
    return register(make_model(config, seed=1, box_ap=40.0), config=config).name


def test_a_name_leads_to_its_files(name: str, store: str, make_config: MakeConfig, make_model: MakeModel) -> None:
    first, second = ((make_model(make_config(), seed=seed) / "weights.safetensors").read_bytes() for seed in (0, 1))

    def weights(form: str) -> bytes:
        return (resolve(form, uri=store) / "weights.safetensors").read_bytes()

    assert weights(f"{name}@champion") == weights(f"{name}/1") == weights(f"models:/{name}@champion") == first
    assert weights(name) == weights(f"{name}/2") == second


def test_a_registered_model_is_trained_on_from_the_store_that_the_configuration_names(
    name: str, store: str, make_config: MakeConfig, dataset: dict[str, Any], tmp_path: Path
) -> None:
    model = {"type": "published", "source": f"{name}@champion", "name": "next"}
    found = with_architecture(make_config(model=model, run_dir=tmp_path / "next"), dataset=dataset).model
    assert (found.type, found.name) == ("mask_rcnn", "next")
    assert found.weights == str(resolve(f"{name}/1", uri=store) / "weights.safetensors")


def test_what_does_not_exist_is_answered_with_what_does(name: str, store: str) -> None:
    with pytest.raises(ValueError, match=rf"no model 'nobody' at sqlite:.*only .*{name}"):
        resolve("nobody@champion", uri=store)
    with pytest.raises(ValueError, match="has no alias 'best', only champion"):
        resolve(f"{name}@best", uri=store)
    with pytest.raises(ValueError, match="has no version 3, only 1, 2"):
        resolve(f"{name}/3", uri=store)
    with pytest.raises(ValueError, match=r"0123.*not found"):
        resolve("runs:/0123", uri=store)


def test_without_a_database_none_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="set MLFLOW_TRACKING_URI"):
        resolve("digits@champion")
    assert not list(tmp_path.iterdir())


def test_files_that_are_gone_are_named(name: str, store: str) -> None:
    (resolve(f"{name}/2", uri=store) / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"does not hold weights\.safetensors and model\.json"):
        resolve(f"{name}/2", uri=store)


def test_a_version_that_was_deleted_is_not_the_latest(name: str, store: str) -> None:
    connect(store).delete_model_version(name, "2")
    assert resolve(name, uri=store) == resolve(f"{name}/1", uri=store)
