import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tracking_samples import MakeConfig, MakeModel, make_shards, start_of

from detcore.evaluation import save_pr_curve
from detcore.tracking import RunHandle, TrackingCallback, close_run, open_run, register, resolve
from detcore.tracking.client import connect
from detcore.tracking.runs import settle


def test_a_version_has_description_signature_example_and_tags_and_is_linked_to_its_run(
    make_config: MakeConfig, make_model: MakeModel, dataset: dict[str, Any], store: str
) -> None:
    config = make_config()
    handle = open_run(config, dataset=dataset)
    close_run(handle, "FINISHED")
    model_dir = make_model(config, box_ap=50.0)
    registered = register(model_dir, config=config, metrics_test={"box_ap": 47.25})
    assert (registered.version, registered.created, registered.alias_moved) == (1, True, True)
    assert registered.reason == "there was no champion"
    version = connect(store).get_model_version_by_alias(registered.name, "champion")
    assert version.run_id == handle.run_id
    assert "squares" in version.description
    assert "box_ap 47.25" in version.description
    assert json.loads(version.tags["labels"]) == ["cat", "dog"]
    assert version.tags["data.content_hash"] == dataset["content_hash"]
    assert float(version.tags["val.box_ap"]) == 50.0
    assert float(version.tags["test.box_ap"]) == 47.25
    folder = resolve(f"{registered.name}@champion", uri=store)
    assert (folder / "model.json").read_text() == (model_dir / "model.json").read_text()
    mlmodel = (folder.parents[1] / "MLmodel").read_text()
    assert "class_name" in mlmodel
    assert "input_example.json" in mlmodel
    requirements = (folder.parents[1] / "requirements.txt").read_text().split()
    assert "detcore==0.1.0" in requirements
    assert any(line.startswith("torch==") and "+" not in line for line in requirements)
    assert not list(folder.parents[1].rglob("*.pkl")), "nothing in the model is unpickled"


def test_the_same_weights_are_registered_once(make_config: MakeConfig, make_model: MakeModel, store: str) -> None:
    config = make_config()
    model_dir = make_model(config)
    register(model_dir, config=config)
    again = register(model_dir, config=config, metrics_test={"box_ap": 12.5})
    assert (again.version, again.created, again.alias_moved) == (1, False, False)
    assert again.reason == "it is the champion already"
    client = connect(store)
    assert len(client.search_model_versions(f"name = '{again.name}'")) == 1
    assert client.get_model_version(again.name, "1").tags["test.box_ap"] == "12.5"


def test_the_champion_is_who_is_better_on_val_whatever_test_says(
    make_config: MakeConfig, make_model: MakeModel, store: str
) -> None:
    config = make_config()
    moved = []
    # On val 50, 50 and 51; on test the other way round.
    for seed, (val, test) in enumerate([(50.0, 90.0), (50.0, 80.0), (51.0, 10.0)]):
        model_dir = make_model(config, seed=seed, box_ap=val)
        registered = register(model_dir, config=config, metrics_test={"box_ap": test})
        moved.append(registered.alias_moved)
    assert moved == [True, False, True]
    assert registered.reason == "box_ap on val is 51.00; the champion, version 1, has 50.00"
    assert connect(store).get_registered_model(registered.name).aliases == {"champion": 3}


def test_figures_on_another_val_set_are_not_compared(
    make_config: MakeConfig, make_model: MakeModel, store: str, shards: Path, tmp_path: Path
) -> None:
    first = register(make_model(make_config()), config=make_config())
    # More or other training images with the same val set: comparable.
    grown = shutil.copytree(shards, tmp_path / "grown")
    make_shards(grown, seed=7, splits=["train"])
    config = make_config(shards=grown)
    second = register(make_model(config, seed=1, box_ap=51.0), config=config)
    assert (second.version, second.alias_moved) == (2, True)
    # Another val set.
    other = make_shards(tmp_path / "other", seed=9)
    config = make_config(shards=other)
    third = register(make_model(config, seed=2, box_ap=99.0), config=config)
    assert (third.version, third.alias_moved) == (3, False)
    assert "another validation set" in third.reason
    assert connect(store).get_registered_model(first.name).aliases == {"champion": 2}


def test_a_model_without_the_figure_it_is_judged_by_is_refused(make_config: MakeConfig, make_model: MakeModel) -> None:
    config = make_config(engine={"steps": 4, "batch_size": 2, "monitor": "mask_ap50"})
    with pytest.raises(ValueError, match=r"no mask_ap50 \(engine.monitor\) on val, only box_ap, box_ap50, mask_ap"):
        register(make_model(config), config=config)


def test_no_model_and_no_mlflow_are_one_line_each(
    make_config: MakeConfig, make_model: MakeModel, tmp_path: Path, closed_port: str
) -> None:
    with pytest.raises(ValueError, match="is no published model"):
        register(tmp_path, config=make_config())
    with pytest.raises(ConnectionError, match="cannot be reached"):
        register(make_model(make_config()), config=make_config(uri=closed_port))


def test_what_training_could_not_deliver_is_delivered_first(
    make_config: MakeConfig, make_model: MakeModel, dataset: dict[str, Any], store: str, closed_port: str
) -> None:
    config = make_config(uri=closed_port)
    close_run(open_run(config, dataset=dataset), "FINISHED")
    for file in Path(config.run_dir).iterdir():
        file.write_text(file.read_text().replace(closed_port, store))  # the same server, now up
    registered = register(make_model(config), config=make_config())
    version = connect(store).get_model_version(registered.name, "1")
    assert version.run_id is not None
    assert connect(store).get_run(version.run_id).info.status == "FINISHED"


def test_a_model_that_dvc_brought_back_is_linked_to_the_run_that_made_it(
    make_config: MakeConfig, make_model: MakeModel, dataset: dict[str, Any], store: str
) -> None:
    """Two trainings in one folder; then the first one's files are restored, and its MLflow run is not the last."""
    config = make_config()
    models, run_ids = [], []
    for seed in (0, 1):
        models.append(make_model(config, seed=seed))
        handle = settle(open_run(config, dataset=dataset), resumed=False)
        with TrackingCallback(handle, save_curve=save_pr_curve) as callback:
            callback.on_start(start_of(config))
            callback.on_end(SimpleNamespace(model_dir=models[seed], best_step=4))
        stored = RunHandle.load(config.run_dir)
        assert stored is not None
        run_ids.append(stored.run_id)
    registered = register(models[0], config=config)
    assert run_ids[0] != run_ids[1]
    assert connect(store).get_model_version(registered.name, "1").run_id == run_ids[0]
