"""The zoo: what is listed, promoted, archived, deleted, and where a version comes from."""

import json
from pathlib import Path
from typing import Any

import pytest
from tracking_samples import MODEL, MakeConfig, MakeModel

from detcore.config import Config
from detcore.tracking import close_run, open_run, register, resolve
from detcore.tracking.aliases import moves, promote
from detcore.tracking.archive import archive, delete
from detcore.tracking.client import connect
from detcore.tracking.lineage import lineage
from detcore.tracking.listing import list_models, list_versions


@pytest.fixture
def three(make_config: MakeConfig, make_model: MakeModel) -> Config:
    """Versions with 50, 51 and 40 on val; the second is the champion."""
    config = make_config()
    for seed, box_ap in enumerate((50.0, 51.0, 40.0)):
        register(make_model(config, seed=seed, box_ap=box_ap), config=config, metrics_test={"box_ap": box_ap - 3})
    return config


def name_of(config: Config) -> str:
    return config.tracking.registered_name


def test_models_are_listed_with_their_aliases_and_figures(three: Config, store: str) -> None:
    name = name_of(three)
    (model,) = list_models([name], uri=store)
    assert model.latest is not None
    assert (model.latest.version, dict(model.aliases)) == (3, {"champion": 2})
    assert model.latest.monitored == {"val": 40.0, "test": 37.0}
    assert model.figures("champion") == {"val": 51.0, "test": 48.0}
    assert name in [found.name for found in list_models([f"{name[:12]}*"], alias="champion", uri=store)]
    assert not list_models([name], alias="nobody", uri=store)
    with pytest.raises(ValueError, match=f"no model 'squares' at .*only .*{name}"):
        list_models(["squares"], uri=store)
    json.dumps(model.to_dict())


def test_versions_are_listed_newest_first(three: Config, store: str) -> None:
    found = list_versions([name_of(three)], uri=store)
    assert [(v.version, v.aliases, v.monitored["val"]) for v in found] == [
        (3, (), 40.0),
        (2, ("champion",), 51.0),
        (1, (), 50.0),
    ]
    assert found[0].to_dict()["labels"] == ["cat", "dog"]
    assert len(list_versions([name_of(three)], data="squares", uri=store)) == 3
    assert not list_versions([name_of(three)], data="circles", uri=store)


def test_an_alias_moves_to_a_better_version_or_by_force_and_every_move_is_recorded(
    three: Config, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    name = name_of(three)
    with pytest.raises(
        ValueError, match=r"/3 does not become champion: box_ap on val is 40\.00; .*2, has 51\.00 \(--f"
    ):
        promote(f"{name}/3", uri=store)
    with pytest.raises(ValueError, match="/2: it is the champion already"):
        promote(f"{name}/2", force=True, uri=store)
    forced = promote(f"{name}/3", force=True, uri=store)
    assert (forced.by, forced.from_version, forced.to_version, forced.forced) == ("ada", 2, 3, True)
    back = promote(f"{name}/1", uri=store)
    assert not back.forced
    assert promote(f"{name}/3", alias="candidate", uri=store).reason == "there was no candidate"
    model = connect(store).get_registered_model(name)
    assert {alias: int(number) for alias, number in model.aliases.items()} == {"champion": 1, "candidate": 3}
    history = moves(model.tags)
    assert [(m.alias, m.from_version, m.to_version) for m in history] == [
        ("champion", None, 1),
        ("champion", 1, 2),
        ("champion", 2, 3),
        ("champion", 3, 1),
        ("candidate", None, 3),
    ]
    assert history[3].figures == {"val": 50.0, "test": 47.0}


def test_tags_of_others_break_no_list(three: Config, store: str) -> None:
    name, client = name_of(three), connect(store)
    client.set_model_version_tag(name, "3", "test.approved", "by Ada")
    client.set_model_version_tag(name, "3", "labels", "cats, dogs")
    client.set_registered_model_tag(name, "alias.note", "see the wiki")
    client.set_registered_model_tag(name, "alias.other", '{"alias": 1}')
    (model,) = list_models([name], uri=store)
    assert model.latest is not None and model.latest.monitored == {"val": 40.0, "test": 37.0}
    assert [move.to_version for move in model.history] == [1, 2]
    found = list_versions([name], uri=store)[0].to_dict()
    assert (found["labels"], found["test"]) == (None, {"box_ap": 37.0})


def test_another_validation_set_does_not_compare(three: Config, store: str) -> None:
    name = name_of(three)
    connect(store).set_model_version_tag(name, "2", "data.val_hash", "another")
    with pytest.raises(ValueError, match="measured on another validation set"):
        promote(f"{name}/1", uri=store)
    assert promote(f"{name}/1", force=True, uri=store).to_version == 1


def test_what_an_alias_points_to_is_neither_archived_nor_deleted(three: Config, store: str) -> None:
    name = name_of(three)
    for change in (archive, delete):
        with pytest.raises(ValueError, match=rf"/2 is {name}@champion: first promote another"):
            change(f"{name}/2", uri=store)
        with pytest.raises(ValueError, match="say which version: NAME/VERSION"):
            change(f"{name}@champion", uri=store)
        with pytest.raises(ValueError, match="has no version 9"):
            change(f"{name}/9", uri=store)


def test_an_archived_version_is_out_of_the_way_and_can_be_deleted(three: Config, store: str) -> None:
    name = name_of(three)
    with pytest.raises(ValueError, match=r"/3 is not archived; first: detcore archive "):
        delete(f"{name}/3", uri=store)
    latest = resolve(name, uri=store)
    assert archive(f"{name}/3", uri=store).archived
    assert [v.version for v in list_versions([name], uri=store)] == [2, 1]
    assert [v.version for v in list_versions([name], archived=True, uri=store)] == [3, 2, 1]
    assert resolve(name, uri=store) == resolve(f"{name}/2", uri=store)
    assert resolve(f"{name}/3", uri=store) == latest, "its own name still loads it"
    with pytest.raises(ValueError, match="/3 is archived; first: detcore archive --undo"):
        promote(f"{name}/3", force=True, uri=store)
    assert not archive(f"{name}/3", undo=True, uri=store).archived
    archive(f"{name}/3", uri=store)
    delete(f"{name}/3", uri=store)
    assert [v.version for v in list_versions([name], archived=True, uri=store)] == [2, 1]
    assert (latest / "weights.safetensors").is_file(), "the run's files stay"


def test_lineage_goes_back_to_the_first_model(
    make_config: MakeConfig, make_model: MakeModel, dataset: dict[str, Any], store: str
) -> None:
    config = make_config()
    handle = open_run(config, dataset=dataset)
    close_run(handle, "FINISHED")
    folder = make_model(config, seed=100)  # weights that no other test registers
    register(folder, config=config)
    hashes = []
    for seed in (101, 102):
        hashes.append(json.loads((folder / "model.json").read_text())["weights_sha256"])
        heir = make_config(
            model={**MODEL, "weights": str(folder / "weights.safetensors"), "weights_sha256": hashes[-1]},
        )
        folder = make_model(heir, seed=seed, box_ap=float(seed))
        register(folder, config=heir)
    name = name_of(config)
    found = lineage(f"{name}@champion", uri=store)
    assert [(g.version, g.parent_sha256) for g in found] == [
        (f"{name}/3", hashes[1]),
        (f"{name}/2", hashes[0]),
        (f"{name}/1", None),
    ]
    assert found[0].aliases == ("champion",)
    first = found[-1]
    assert (first.data, first.data_hash) == ("squares", dataset["content_hash"])
    assert (first.run_id, first.experiment) == (handle.run_id, config.tracking.experiment)
    archive(f"{name}/2", uri=store)
    with pytest.raises(ValueError, match=rf"/2: {name}/3 were trained from it"):
        delete(f"{name}/2", uri=store)
    connect(store).delete_model_version(name, "2")  # by hand
    assert [g.version for g in lineage(f"{name}/3", uri=store)] == [f"{name}/3", None]


def test_looking_makes_no_database(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    for look in (list_models, list_versions):
        with pytest.raises(ValueError, match=r"no registry at .*none\.db; set MLFLOW_TRACKING_URI"):
            look(uri=uri)
    for change in (promote, archive, delete, lineage):
        with pytest.raises(ValueError, match=r"no registry at .*none\.db; set MLFLOW_TRACKING_URI"):
            change("a/1", uri=uri)
    assert not (tmp_path / "none.db").exists()
