import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tracking_samples import MakeConfig

from detcore.launch.delivery import send
from detcore.tracking import RunHandle, close_run, flush_buffer, open_run
from detcore.tracking.client import connect
from detcore.tracking.opening import flatten
from detcore.tracking.provenance import git_commit
from detcore.tracking.runs import settle


def test_a_run_has_parameters_config_tags_and_the_data_set(
    make_config: MakeConfig, dataset: dict[str, Any], store: str
) -> None:
    config = make_config()
    handle = open_run(config, dataset=dataset)
    close_run(handle, "FINISHED")
    client = connect(store)
    assert handle.run_id is not None
    run = client.get_run(handle.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "squares-mask-rcnn"
    # Values as the configuration of the fixture states them.
    assert run.data.params["optim.lr"] == "0.01"
    assert run.data.params["model.backbone.name"] == "resnet10t"
    assert json.loads(run.data.params["data.test_transforms"])[0]["height"] == 64
    assert run.data.tags["data.content_hash"] == dataset["content_hash"]
    commit = git_commit()
    assert run.data.tags.get("mlflow.source.git.commit") == (commit.sha if commit else None)
    assert run.inputs is not None
    entry = run.inputs.dataset_inputs[0].dataset
    assert (entry.name, entry.digest) == ("squares", dataset["content_hash"][:36])
    assert json.loads(entry.source)["uri"] == config.data.shards
    assert json.loads(entry.profile)["num_samples_val"] == 3
    written = Path(client.download_artifacts(handle.run_id, "config.yaml"))
    assert yaml.safe_load(written.read_text())["engine"]["steps"] == 4
    # Beside the database, not in the folder that the process happens to be in.
    assert run.info.artifact_uri.startswith(f"file://{Path(store.removeprefix('sqlite:///')).parent}/mlruns/")


def test_a_password_is_neither_logged_nor_stored(
    make_config: MakeConfig, dataset: dict[str, Any], closed_port: str
) -> None:
    config = make_config(uri=closed_port.replace("//", "//user:secret@"))
    handle = open_run(config, dataset=dataset)
    assert "secret" not in json.dumps(handle.opening)
    assert "secret" not in Path(config.run_dir, "tracking.json").read_text()
    assert "secret" in handle.uri
    close_run(handle, "FINISHED")
    assert "secret" not in Path(config.run_dir, "tracking-buffer.jsonl").read_text()
    with pytest.raises(ValueError, match="set MLFLOW_TRACKING_URI"):
        flush_buffer(config.run_dir)


def test_values_are_flattened_and_cut_to_mlflows_limit() -> None:
    flat = dict(flatten({"a": {"b": 1, "c": [1, 2]}, "long": "x" * 10_000}))
    assert flat["a.b"] == "1"
    assert flat["a.c"] == "[1, 2]"
    assert len(flat["long"]) == 6000


def test_a_resumed_training_goes_on_with_its_run_and_a_new_one_begins_another(
    make_config: MakeConfig, dataset: dict[str, Any], store: str
) -> None:
    config, client = make_config(), connect(store)
    first = open_run(config, dataset=dataset)
    close_run(first, "KILLED")
    again = open_run(config, dataset=dataset)
    assert again.run_id is None, "not decided before the training says so"
    assert settle(again, resumed=True).run_id == first.run_id
    assert settle(again, resumed=False).run_id == first.run_id, "once decided it stays so, in a restarted worker too"
    close_run(again, "FINISHED")
    assert first.run_id is not None
    assert client.get_run(first.run_id).info.status == "FINISHED"
    other = settle(open_run(config, dataset=dataset), resumed=False)
    assert other.run_id is None
    close_run(other, "FAILED")
    stored = RunHandle.load(config.run_dir)
    assert stored is not None
    assert stored.run_id not in (None, first.run_id)
    assert client.get_run(str(stored.run_id)).info.status == "FAILED"


def test_a_training_that_never_began_leaves_the_last_run_alone(
    make_config: MakeConfig, dataset: dict[str, Any], store: str
) -> None:
    config = make_config()
    first = open_run(config, dataset=dataset)
    close_run(first, "FINISHED")
    close_run(open_run(config, dataset=dataset), "FAILED")
    stored = RunHandle.load(config.run_dir)
    assert stored is not None
    assert stored.run_id == first.run_id
    assert connect(store).get_run(str(first.run_id)).info.status == "FINISHED"


def test_a_deleted_run_is_not_gone_on_with(make_config: MakeConfig, dataset: dict[str, Any], store: str) -> None:
    config = make_config()
    first = open_run(config, dataset=dataset)
    assert first.run_id is not None
    connect(store).delete_run(first.run_id)
    assert open_run(config, dataset=dataset).run_id not in (None, first.run_id)


def test_what_mlflow_refuses_is_an_error_before_training(make_config: MakeConfig, dataset: dict[str, Any]) -> None:
    config = make_config()
    tracking = config.tracking.model_copy(update={"experiment": "x" * 1000})
    with pytest.raises(ValueError, match="refuses the run"):
        open_run(config.model_copy(update={"tracking": tracking}), dataset=dataset)


def test_an_evaluation_is_added_to_the_run(
    make_config: MakeConfig, dataset: dict[str, Any], store: str, tmp_path: Path
) -> None:
    config = make_config()
    handle = open_run(config, dataset=dataset)
    folder = tmp_path / "evaluation"
    (folder / "pictures").mkdir(parents=True)
    (folder / "pictures" / "00.png").write_bytes(b"png")
    send(config, folder, artifact="evaluation", metrics={"test/box_ap": 61.5}, step=4)
    client = connect(store)
    assert handle.run_id is not None
    assert client.get_run(handle.run_id).data.metrics["test/box_ap"] == 61.5
    assert [file.path for file in client.list_artifacts(handle.run_id, "evaluation/pictures")] == [
        "evaluation/pictures/00.png"
    ]
    assert (folder / "pictures" / "00.png").is_file()
