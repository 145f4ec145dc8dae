"""A version's card and files, made of a run as the evaluate stage leaves it; two versions compared."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import CATEGORIES, TinyDetector, samples, tiny_config, write_shards

from detcore.config import Config
from detcore.data import write_split
from detcore.launch import evaluate_published, register_published, train
from detcore.launch.registration import FILE_NAME
from detcore.tracking.attachments import attached
from detcore.tracking.client import connect
from detcore.zoo.card import Card, Section
from detcore.zoo.card_files import description, markdown
from detcore.zoo.diff import diff
from detcore.zoo.opening import open_dossier


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    connect(uri).search_experiments()
    return uri


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_shards(tmp_path_factory.mktemp("shards"), train=4, val=2)
    write_split(samples(6, seed=3), folder, split="test", categories=CATEGORIES, name="squares")
    return folder


def run(folder: Path, shards: Path, store: str, *, seed: int, **settings: Any) -> Config:
    """Trained for a while, evaluated, registered."""
    config = tiny_config(folder, shards, seed=seed, engine__steps=60, tracking__enabled=False, **settings)
    tracking = config.tracking.model_copy(update={"uri": store, "registered_name": "tiny"})
    config = config.model_copy(update={"tracking": tracking})
    torch.manual_seed(seed)
    train(config, model=TinyDetector())
    evaluate_published(config, model=TinyDetector())
    register_published(config)
    return config


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, shards: Path, store: str) -> list[Config]:
    card = {"intended_use": "Counting <b>squares</b>.", "data_licence": "CC0"}
    folders = [tmp_path_factory.mktemp("run") for _ in range(2)]
    return [
        run(folders[0], shards, store, seed=0, tracking__card=card),
        run(folders[1], shards, store, seed=1, optim__lr=0.02),
    ]


def version_of(config: Config) -> str:
    outcome = json.loads(Path(config.run_dir, FILE_NAME).read_text())
    return f"{outcome['name']}/{outcome['version']}"


def test_the_card_is_kept_and_is_the_versions_description(two: list[Config], store: str) -> None:
    name = version_of(two[0])
    with attached(name, (), uri=store) as folder:
        text, page = (folder / "card.md").read_text(), (folder / "card.html").read_text()
        assert (folder / "evaluation" / "detections.parquet").is_file()
    described = connect(store).get_model_version(*name.split("/")).description
    assert described == text
    assert "Data: CC0" in text
    assert r"Counting \<b\>squares\</b\>." in text, "what people typed is text"
    assert "Counting &lt;b&gt;squares&lt;/b&gt;." in page
    assert "Weights: Not stated (tracking.card.weights\\_licence)." in text
    assert "The test split has only 6 images" in text
    assert f"Learnt from fewer than 50 objects: {CATEGORIES[0]} (" in text
    assert name in text and "data squares " in text
    box_ap = json.loads(Path(two[0].run_dir, "evaluation", "metrics.json").read_text())["box_ap"]
    assert f"| box\\_ap | {box_ap:.2f} |" in text
    assert not re.search(r"""(src|href)=(?!["']?data:)""", page), "the page needs nothing else"
    assert page.count("<img") >= 2


def test_two_versions_are_compared_with_intervals(two: list[Config], store: str) -> None:
    names = [version_of(config) for config in two]
    with open_dossier(names[0], uri=store) as first, open_dossier(names[1], uri=store) as second:
        found, reverse, same = diff(first, second, sets=50), diff(second, first, sets=50), diff(first, first, sets=50)
    (box_ap,) = [change for change in found.test if change.name == "box_ap"]
    (back,) = [change for change in reverse.test if change.name == "box_ap"]
    figures = [json.loads(Path(c.run_dir, "evaluation", "metrics.json").read_text())["box_ap"] for c in two]
    assert (box_ap.first, box_ap.second) == tuple(figures)
    assert box_ap.low is not None and box_ap.high is not None and back.low is not None and back.high is not None
    assert box_ap.delta is not None and box_ap.low <= box_ap.delta <= box_ap.high
    assert (back.low, back.high) == pytest.approx((-box_ap.high, -box_ap.low))
    assert found.note == "95 % intervals from 50 draws of the 6 test images, the same for both"
    assert found.config["optim.lr"] == (two[0].optim.lr, 0.02)
    assert found.config["seed"] == (0, 1)
    assert found.data == {}
    assert found.model["weights_sha256"][0] != found.model["weights_sha256"][1]
    assert {change.name for change in found.classes} <= set(CATEGORIES)
    assert (same.config, same.data, same.model) == ({}, {}, {})
    assert all(change.delta == 0 and change.verdict in ("", "the same") for change in same.test)
    json.dumps(found.to_dict())


def test_a_run_is_compared_before_it_is_registered(two: list[Config], store: str) -> None:
    with open_dossier(two[0].run_dir, uri=store) as own, open_dossier(version_of(two[0]), uri=store) as registered:
        found = diff(own, registered, sets=10)
    assert (found.data, found.model) == ({}, {})
    assert found.config.keys() <= {"tracking.uri", "tracking.registered_name", "tracking.enabled"}
    assert found.test[0].delta == 0


def test_other_test_images_do_not_compare(two: list[Config], store: str, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", train=4, val=2)
    write_split(samples(5, seed=9), shards, split="test", categories=CATEGORIES, name="squares")
    other = run(tmp_path / "run", shards, store, seed=2)
    with open_dossier(version_of(two[0]), uri=store) as first, open_dossier(version_of(other), uri=store) as second:
        found = diff(first, second)
    assert found.note == "no intervals, and the figures do not compare: the two were measured on different test splits"
    assert all(change.low is None for change in found.test)
    assert found.data["test.images"] == (6, 5)
    assert "content_hash" in found.data


def test_a_description_fits_into_the_registry() -> None:
    rows = [(f"class {index}", "50.00") for index in range(1000)]
    sections = (
        Section(title="Classes", columns=("class", "AP"), rows=rows),
        Section(title="Limits", points=["It is blind at night."]),
    )
    card = Card(title="x", about="y", sections=sections, kind="box")
    assert len(markdown(card)) > 5000
    short = description(card, most=5000)
    assert len(short) < 5000
    assert "It is blind at night." in short and "among the artifacts" in short and "class 7" not in short
    many = Card(title="x", about="y", sections=[Section(title="Limits", points=["z" * 9000])], kind="")
    assert len(description(many, most=5000)) == 5000
