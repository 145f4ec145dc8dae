"""Reports of runs and of published models, and what they are compared with."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_training import CATEGORIES, TinyDetector, samples, tiny_config, train, write_shards

from detcore.cli import main
from detcore.config import Config
from detcore.data import ShardedSplit, write_split
from detcore.inference import Predictor, load_folder
from detcore.launch import evaluate_published, report_published, reporting
from detcore.launch.reporting import measured_on, measured_run


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A published and evaluated model; nothing tracked."""
    shards = write_shards(tmp_path / "shards", train=4, val=2)
    write_split(samples(6, seed=3), shards, split="test", categories=CATEGORIES, name="squares")
    config = tiny_config(tmp_path / "run", shards, engine__steps=1, tracking__enabled=False)
    train(TinyDetector(), config)
    evaluate_published(config, model=TinyDetector())
    return config


def test_a_runs_report_says_what_its_evaluation_said(config: Config, tmp_path: Path) -> None:
    findings = report_published(config)
    assert findings is not None
    metrics = json.loads((tmp_path / "run/evaluation/metrics.json").read_text())
    numbers = json.loads((tmp_path / "run/report/report.json").read_text())
    assert numbers["metrics"] == pytest.approx(metrics)
    precision = findings.kinds[0].precision
    assert precision["ap"].value == pytest.approx(metrics["box_ap"])
    assert precision["ap50"].value == pytest.approx(metrics["box_ap50"])
    assert (numbers["images"], numbers["objects"]) == (6, 6)
    assert "data:image/jpeg" in (tmp_path / "run/report/report.html").read_text()
    split = ShardedSplit.open(config.data.shards, "test")
    assert {image.file_name for image in findings.images} == set(split.file_names)


def test_it_is_of_the_weights_that_are_there(config: Config, tmp_path: Path) -> None:
    description = tmp_path / "run/model/model.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"weights_sha256": "0" * 64}))
    with pytest.raises(ValueError, match="evaluate this model first"):
        report_published(config)


def test_without_a_test_split_the_page_says_so(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path / "run", write_shards(tmp_path / "shards", train=4, val=2), engine__steps=1, tracking__enabled=False
    )
    train(TinyDetector(), config)
    evaluate_published(config, model=TinyDetector())
    assert report_published(config) is None
    assert "squares has no test split" in (tmp_path / "run/report/report.html").read_text()
    assert (tmp_path / "run/report/f1_curve.csv").read_text().splitlines() == ["score,precision,recall,f1"]


def tracked(config: Config) -> Config:
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"enabled": True})})


def test_the_champion_is_compared_with_on_the_same_images(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    champion = tiny_config(tmp_path / "champion", Path(config.data.shards), engine__steps=2, tracking__enabled=False)
    train(TinyDetector(), champion)
    monkeypatch.setattr(reporting, "resolve", lambda name, uri: tmp_path / "champion/model")
    monkeypatch.setattr(
        reporting, "load_folder", lambda folder, device: load_folder(folder, device=device, model=TinyDetector())
    )
    findings = report_published(tracked(config))
    assert findings is not None and findings.comparison is not None
    assert findings.comparison.other.endswith("@champion")
    assert "comparison" in (tmp_path / "run/report/report.html").read_text()


def test_why_there_is_no_comparison_is_said(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str, uri: str) -> Path:
        raise ValueError(f"{name}: no registry")

    monkeypatch.setattr(reporting, "resolve", nowhere)
    findings = report_published(tracked(config))
    assert findings is not None
    assert any("no registry" in note for note in findings.notes)
    monkeypatch.setattr(reporting, "resolve", lambda name, uri: tmp_path / "run/model")
    findings = report_published(tracked(config))
    assert findings is not None
    assert any("These weights are the champion" in note for note in findings.notes)


def test_a_model_of_other_classes_is_refused(config: Config, tmp_path: Path) -> None:
    predictor: Any = load_folder(tmp_path / "run/model", device="cpu", model=TinyDetector())
    split = ShardedSplit.open(config.data.shards, "val")
    assert measured_on("tiny", predictor, config, split).kinds == ("boxes",)
    others = Predictor(
        model=predictor.model, labels=("dark", "bright"), preprocessing=predictor.preprocessing, device=predictor.device
    )
    with pytest.raises(ValueError, match=r"tiny has the classes 2 \(dark, bright"):
        measured_on("tiny", others, config, split)


def test_the_command_takes_a_run(config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    assert main(["report", run, "--against", run, "--out", str(tmp_path / "out")]) == 0
    numbers = json.loads((tmp_path / "out/report.json").read_text())
    assert {figure["change"]["value"] for figure in numbers["comparison"]["figures"] if figure["change"]} == {0.0}
    capsys.readouterr()
    (tmp_path / "run/evaluation/about.json").unlink()
    assert main(["report", run]) == 2
    assert "evaluate the model first" in capsys.readouterr().err
    with pytest.raises(ValueError, match="holds no evaluation"):
        measured_run(tmp_path / "run")
