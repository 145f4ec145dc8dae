"""Test figures: of the training's own split, and registered with the weights that they were measured of."""

import json
from pathlib import Path

import pytest
from tiny_training import CATEGORIES, TinyDetector, samples, tiny_config, train, write_shards

from detcore.config import Config, TTAConfig
from detcore.data import write_split
from detcore.data.description import read_description
from detcore.launch import evaluate_published, evaluation, register_published, registration, report
from detcore.tracking.registry import RegisteredVersion


def trained(folder: Path, *, test: bool) -> Config:
    """A published model and its data; nothing tracked."""
    shards = write_shards(folder / "shards", train=4, val=2)
    if test:
        write_split(samples(2, seed=3), shards, split="test", categories=CATEGORIES, name="squares")
    config = tiny_config(folder / "run", shards, engine__steps=1, tracking__enabled=False)
    train(TinyDetector(), config)
    return config


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow takes everything."""
    outcome = RegisteredVersion(
        name="tiny", version=1, created=True, alias="champion", alias_moved=True, reason="there was no champion"
    )
    monkeypatch.setattr(registration, "register", lambda *arguments, **named: outcome)
    monkeypatch.setattr(registration, "describe_version", lambda *arguments, **named: None)


def test_figures_are_of_the_split_and_the_weights_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registered: None
) -> None:
    config = trained(tmp_path, test=True)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "ensure_shards", lambda config: pytest.fail("prepared anew"))
        metrics = evaluate_published(config, model=TinyDetector())
    assert json.loads((tmp_path / "run/evaluation/metrics.json").read_text()) == pytest.approx(metrics)
    assert register_published(config)["test"] == pytest.approx(metrics)
    assert report(config).startswith("test      box_ap ")

    description = tmp_path / "run/model/model.json"  # as of another training
    description.write_text(json.dumps(json.loads(description.read_text()) | {"weights_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="evaluate this model first"):
        register_published(config)

    before = read_description(Path(config.data.shards))["content_hash"]
    write_split(samples(2, seed=4), Path(config.data.shards), split="test", categories=CATEGORIES, name="squares")
    after = read_description(Path(config.data.shards))["content_hash"]
    with pytest.raises(ValueError, match=rf"{before[:12]}.*{after[:12]}.*same data\.\* and seed") as refused:
        evaluate_published(config, model=TinyDetector())
    assert "\n" not in str(refused.value)


def test_without_a_test_split_the_way_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], registered: None
) -> None:
    config = trained(tmp_path, test=False)
    leftover = tmp_path / "run/evaluation/per_class.csv"  # of another data set
    leftover.parent.mkdir()
    leftover.touch()
    capsys.readouterr()
    assert evaluate_published(config, model=TinyDetector()) == {}
    assert capsys.readouterr().out == "squares has no test split: there are no test figures\n"
    assert json.loads((tmp_path / "run/evaluation/metrics.json").read_text()) == {}
    assert (tmp_path / "run/evaluation/pr_curve.csv").read_text() == "recall,mean\n"
    assert not leftover.exists()
    assert register_published(config)["test"] == {}
    assert report(config).startswith("val       box_ap ")


def test_nothing_is_registered_that_was_not_evaluated(tmp_path: Path, registered: None) -> None:
    with pytest.raises(ValueError, match="evaluate this model first"):
        register_published(trained(tmp_path, test=False))


def test_what_the_test_split_lacks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, model = trained(tmp_path, test=True), TinyDetector()
    model.predicts = ("boxes", "keypoints")
    assert "box_ap" in evaluate_published(config, model=model)
    assert "no figures of keypoints on test: no object has keypoints\n" in capsys.readouterr().out


def test_views_are_looked_at_on_request(tmp_path: Path) -> None:
    config = trained(tmp_path, test=True)
    plain = evaluate_published(config, model=TinyDetector())
    views = {"engine": config.engine.model_copy(update={"tta": TTAConfig(flip=True)})}
    augmented = evaluate_published(config.model_copy(update=views), model=TinyDetector())
    assert augmented.keys() == plain.keys()
    assert json.loads((tmp_path / "run/evaluation/metrics.json").read_text()) == pytest.approx(augmented)
