"""What is asked before a training on a cluster begins. The nodes' answers: tests/integration/test_jobs_on_nodes.py."""

from pathlib import Path
from typing import Any

import pytest
from tiny_training import tiny_config

from detcore.config import Config
from detcore.launch import ray_nodes
from detcore.launch.ray_nodes import Needed, check_files, check_places


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Needed]:
    """A cluster of three nodes, and what the other two are asked for."""
    found: list[Needed] = []
    monkeypatch.setattr(
        ray_nodes, "_other_nodes", lambda config: {"a" * 56: "n1 (10.0.0.2)", "b" * 56: "n2 (10.0.0.3)"}
    )
    monkeypatch.setattr(ray_nodes, "_ask", lambda nodes, needed: found.extend(needed))
    return found


def on_ray(folder: Path, **changes: Any) -> Config:
    return tiny_config(folder / "run", folder / "shards", cluster={"type": "ray"}, **changes)


def test_a_database_of_this_node_is_refused_on_several(asked: list[Needed], tmp_path: Path) -> None:
    config = on_ray(tmp_path, tracking__enabled=True, tracking__uri=f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(
        ValueError, match=r"of this node alone, and workers may be on 2 others: run `mlflow server`"
    ) as said:
        check_places(config)
    assert "\n" not in str(said.value)
    assert not asked


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_server_on_the_loopback_is_refused_on_several(host: str, asked: list[Needed], tmp_path: Path) -> None:
    config = on_ray(tmp_path, tracking__enabled=True, tracking__uri=f"http://user:word@{host}:5000")
    with pytest.raises(ValueError, match="answers this node alone") as said:
        check_places(config)
    assert "word" not in str(said.value)


def test_nodes_are_asked_for_the_run_and_for_prepared_shards(asked: list[Needed], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "dataset.json").write_text("{}")
    check_places(on_ray(tmp_path, tracking__enabled=True, tracking__uri="http://mlflow:5000"))
    run, shards = asked
    assert run.path.parent == tmp_path / "run"
    assert (shards.path, shards.content) == (tmp_path / "shards" / "dataset.json", b"{}")
    assert [path.name for path in (tmp_path / "run").iterdir()] == []  # the mark is gone


def test_where_shards_are_to_be_prepared_the_folder_above_is_asked_for(asked: list[Needed], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    check_places(on_ray(tmp_path, tracking__enabled=False))
    assert [needed.path.parent for needed in asked] == [tmp_path / "run", tmp_path]


def test_a_store_is_reached_from_everywhere(asked: list[Needed], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    check_places(on_ray(tmp_path, tracking__enabled=False, data__shards="s3://team/shards"))
    assert len(asked) == 1


def test_files_that_the_configuration_names_are_asked_for(asked: list[Needed], tmp_path: Path) -> None:
    (tmp_path / "tree.json").write_text("[]")
    evaluation = {"protocol": "open_images", "hierarchy": str(tmp_path / "tree.json")}
    check_files(on_ray(tmp_path, tracking__enabled=False, engine__evaluation=evaluation))
    (needed,) = asked
    assert needed.path == tmp_path / "tree.json"
    assert "engine.evaluation.hierarchy" in needed.lack
