"""`detcore publish`: a model folder out of any checkpoint."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_training import CATEGORIES, StopAfter, TinyDetector, checkpoint_of, same, train

from detcore.cli import main
from detcore.inference import load_folder


def test_the_best_is_what_the_training_published(configure, tmp_path: Path) -> None:
    config = configure(engine__ema_decay=0.9)
    result = train(TinyDetector(), config)
    assert main(["publish", config.run_dir, str(tmp_path / "best")]) == 0
    assert result.model_dir is not None
    for name in ("model.json", "weights.safetensors"):
        assert (tmp_path / "best" / name).read_bytes() == (result.model_dir / name).read_bytes()


def test_any_step_of_a_stopped_training(configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, model = configure(engine__keep_every=3), TinyDetector()
    train(model, config, worker=StopAfter(model, 7))
    for step, name in (("last", "7"), ("3", "3"), ("best", "4")):
        assert main(["publish", config.run_dir, str(tmp_path / name), "--step", step]) == 0
        assert f"step {name} of {config.run_dir}" in capsys.readouterr().out
        weights = load_file(tmp_path / name / "weights.safetensors")
        assert same(weights, checkpoint_of(config, int(name))["weights.safetensors"])
        described = json.loads((tmp_path / name / "model.json").read_text())
        assert bool(described["metrics"]) == (name == "4")  # the one step that was evaluated
        assert load_folder(tmp_path / name, model=TinyDetector(), device="cpu").labels == CATEGORIES


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("5", "checkpoints has no checkpoint of step 5; there are 2"),
        ("best", "nothing was evaluated up to step 2; say --step last"),
        ("newest", "--step newest is neither best, last nor a number"),
    ],
)
def test_a_step_that_is_none(
    configure, tmp_path: Path, capsys: pytest.CaptureFixture[str], step: str, message: str
) -> None:
    config, model = configure(), TinyDetector()
    train(model, config, worker=StopAfter(model, 2))
    assert main(["publish", config.run_dir, str(tmp_path / "model"), "--step", step]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_what_cannot_be_published(configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["publish", str(tmp_path / "nowhere"), str(tmp_path / "model")]) == 2
    assert "nowhere/checkpoints has no checkpoint" in capsys.readouterr().err

    config, model = configure(), TinyDetector()
    train(model, config, worker=StopAfter(model, 2))
    folder = Path(config.run_dir) / "checkpoints" / "step-00000002"
    record = folder / "record.json"
    record.write_bytes(record.read_bytes()[:-1])
    assert main(["publish", config.run_dir, str(tmp_path / "model"), "--step", "last"]) == 2
    assert "broken checkpoint, record.json" in capsys.readouterr().err

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    assert main(["publish", config.run_dir, str(tmp_path / "full")]) == 2
    assert "full exists and is not an empty folder" in capsys.readouterr().err
