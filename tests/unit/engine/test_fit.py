"""The loop as a whole, on a detector that trains in a second."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import CATEGORIES, StopAfter, TinyDetector, checkpoint_of, same, tiny_config, train, write_shards

from detcore.data import Sample, write_split
from detcore.engine import FitResult, LocalWorker, Start
from detcore.evaluation import Evaluation


class Recorder:
    """A callback, and a worker, that keeps what it is told."""

    rank, world_size, local_rank, device = 0, 1, 0, torch.device("cpu")

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def on_start(self, start: Start) -> None:
        self.heard.append(("start", start.step))

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.heard.append(("log", step))

    def on_evaluate(self, step: int, metrics: Mapping[str, float], evaluation: Evaluation) -> None:
        assert evaluation.metrics.items() <= metrics.items()
        self.heard.append(("evaluate", step))

    def on_end(self, result: FitResult) -> None:
        self.heard.append(("end", result.step))

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        self.heard.append(("report", checkpoint and checkpoint.name))

    def stop_requested(self) -> bool:
        return False

    def beat(self, step: int, *, bounded: bool) -> None: ...


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_what_a_run_leaves_behind(configure) -> None:
    config = configure(engine__ema_decay=0.9)
    recorder = Recorder()
    result = train(TinyDetector(), config, callbacks=[recorder], worker=recorder)
    run_dir = Path(config.run_dir)

    assert (result.step, result.stopped, result.exit_code) == (10, None, 0)
    assert [row["step"] for row in rows(run_dir / "history.csv")] == ["4", "8", "10"]
    evaluations = rows(run_dir / "evaluations.csv")
    assert [row["step"] for row in evaluations] == ["4", "8", "10"]
    assert {"box_ap", "val_loss", "val_box", "val_label"} < evaluations[0].keys()
    assert json.loads((run_dir / "train.json").read_text())["box_ap"] == result.best_metrics["box_ap"]
    assert [event for event in recorder.heard if event[0] != "report"] == [
        ("start", 0),
        *((kind, step) for step in (4, 8, 10) for kind in ("log", "evaluate")),
        ("end", 10),
    ]
    assert len([event for event in recorder.heard if event[0] == "report"]) == 3
    # keep_checkpoints is 2: the newest two, and what they know as the best.
    steps = {int(folder.name[5:]) for folder in (run_dir / "checkpoints").iterdir()}
    assert steps == {9, 10, result.best_step, checkpoint_of(config, 9)["record"]["state"]["best_step"]}


def test_the_published_model_is_the_best_average(configure) -> None:
    config = configure(engine__ema_decay=0.9)
    result = train(TinyDetector(), config)
    assert result.model_dir is not None
    described = json.loads((result.model_dir / "model.json").read_text())
    published = load_file(result.model_dir / "weights.safetensors")

    best = checkpoint_of(config, result.best_step)
    assert same(published, best["average.safetensors"])
    assert not same(published, best["weights.safetensors"])
    assert described["labels"] == list(CATEGORIES)
    assert described["metrics"] == result.best_metrics
    assert described["preprocessing"] == {
        "image_mean": [0, 0, 0],
        "image_std": [255, 255, 255],
        "transform": {"type": "resize_fixed", "height": 32, "width": 32},
        "size_divisor": 32,
    }


RESUMED = {
    "sgd": {},
    "adamw, average, accumulation": {
        "optim__type": "adamw",
        "optim__lr": 0.01,
        "engine__ema_decay": 0.9,
        "engine__accumulate": 2,
    },
}


@pytest.mark.parametrize("changes", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("stop", [4, 5])  # where an evaluation is due and comes after the stop; and between everything
def test_resumed_is_as_never_stopped(configure, changes: dict[str, Any], stop: int) -> None:
    whole = configure(run="whole", **changes)
    expected = train(TinyDetector(), whole)

    config = configure(**changes)
    model = TinyDetector()
    stopped = train(model, config, worker=StopAfter(model, stop * config.engine.accumulate))
    assert (stopped.step, stopped.stopped, stopped.model_dir) == (stop, "requested", None)
    for name in ("history.csv", "evaluations.csv"):  # as DVC does to a stage's outputs
        (Path(config.run_dir) / name).unlink(missing_ok=True)
    torch.manual_seed(99)  # the generators, too, must come out of the checkpoint
    result = train(TinyDetector(), config)

    assert (result.step, result.metrics, result.best_step) == (10, expected.metrics, expected.best_step)
    for step in (9, 10):
        assert same(checkpoint_of(config, step), checkpoint_of(whole, step))
    assert rows(Path(config.run_dir) / "evaluations.csv") == rows(Path(whole.run_dir) / "evaluations.csv")
    timed = ("images_per_second", "data_wait_seconds")
    histories = [rows(Path(run.run_dir) / "history.csv") for run in (config, whole)]
    for row in (*histories[0], *histories[1]):
        for name in timed:
            del row[name]
    assert histories[0] == histories[1]


def test_same_shows_a_difference(configure) -> None:
    """The comparison above can fail: another seed gives another run."""
    runs = [configure(run=str(seed), seed=seed, engine__steps=3) for seed in (1, 2)]
    for run in runs:
        train(TinyDetector(), run)
    first, second = (checkpoint_of(run, 3) for run in runs)
    assert not same(first["weights.safetensors"], second["weights.safetensors"])
    assert not same(first["record"], second["record"])


def test_what_training_takes_and_leaves_out_is_said(configure, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure(data__train_subset={"type": "first", "number": 5})
    recorder = Recorder()
    train(TinyDetector(), config, worker=recorder)
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("training on"))
    assert line.startswith("training on 5 images, ") and " left out by train_subset (first); an epoch: " in line
    assert line.endswith("% padding")


def test_a_finished_run_is_only_published_again(configure, capsys: pytest.CaptureFixture[str]) -> None:
    config = configure()
    first = train(TinyDetector(), config)
    for path in sorted((Path(config.run_dir) / "model").iterdir()):
        path.unlink()
    model, recorder = TinyDetector(), Recorder()
    second = train(model, config, callbacks=[recorder])
    assert second == first
    assert model.passes == 0
    assert (Path(config.run_dir) / "model" / "weights.safetensors").is_file()
    assert recorder.heard == [("start", 10), ("end", 10)]
    assert "finished at step 10 of 10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"optim__lr": 0.02}, "(config: optim.lr)"), ({"engine__steps": 12, "seed": 4}, "(config: engine.steps, seed)")],
)
def test_another_config_starts_anew(
    configure, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], named: str
) -> None:
    model = TinyDetector()
    train(model, configure(), worker=StopAfter(model, 6))
    config, model = configure(**changes), TinyDetector()
    train(model, config)
    assert model.passes == config.engine.steps
    assert rows(Path(config.run_dir) / "evaluations.csv")[0]["step"] == "4"
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "starting anew" in line)
    assert named in line
    # Moved, not destroyed.
    assert (Path(config.run_dir) / "checkpoints.previous" / "step-00000006" / "weights.safetensors").is_file()


def test_what_does_not_change_the_training_does_not_start_it_anew(configure) -> None:
    model = TinyDetector()
    train(model, configure(), worker=StopAfter(model, 6))
    model = TinyDetector()
    train(model, configure(engine__checkpoint_every=5, engine__keep_checkpoints=1, data__threads=2))
    assert model.passes == 4


def test_another_model_class_starts_anew(configure, capsys: pytest.CaptureFixture[str]) -> None:
    class Wider(TinyDetector):
        pass

    train(TinyDetector(), configure(engine__steps=2))
    train(Wider(), configure(engine__steps=2))
    assert "of another training (code)" in capsys.readouterr().out


def test_early_stopping(configure) -> None:
    # Without a learning rate to speak of every evaluation is like the first: none is better.
    config = configure(optim__lr=1e-12, engine__eval_every=2, engine__early_stop_patience=2, engine__steps=20)
    result = train(TinyDetector(), config)
    assert (result.step, result.best_step, result.stopped) == (6, 2, None)
    assert result.model_dir is not None
    model = TinyDetector()
    assert train(model, config).step == 6
    assert model.passes == 0


def test_evaluation_is_once_at_the_end_by_default(configure) -> None:
    config = configure(engine__eval_every=None)
    train(TinyDetector(), config)
    assert [row["step"] for row in rows(Path(config.run_dir) / "evaluations.csv")] == ["10"]


def test_training_never_sees_another_split(configure, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train for steps, val for evaluations: by the image ids, 1000 on and 2000 on in the shards."""
    seen: dict[bool, set[int]] = {True: set(), False: set()}
    losses = TinyDetector.losses

    def watch(self, batch):
        seen[self.training].update((batch.sample_ids[batch.real]).tolist())
        return losses(self, batch)

    monkeypatch.setattr(TinyDetector, "losses", watch)
    train(TinyDetector(), configure())
    assert seen == {True: set(range(16)), False: set(range(6))}  # 16 images in train, 6 in val


def test_a_users_transform_is_used(configure) -> None:
    touched: list[int] = []

    def transform(sample: Sample, random: np.random.Generator) -> Sample:
        touched.append(sample.image_id or 0)
        return sample

    train(TinyDetector(), configure(engine__steps=2), transform=transform)
    assert touched and all(1000 <= image_id < 2000 for image_id in touched)  # of train only


@pytest.mark.parametrize(("precision", "close"), [("bf16", 5e-3), ("fp16", 5e-3), ("fp64", 1e-5)])
def test_precisions(configure, precision: str, close: float) -> None:
    expected = train(TinyDetector(), configure(run="fp32", engine__steps=4)).metrics["val_loss"]
    model = TinyDetector()
    result = train(model, configure(engine__precision=precision, engine__steps=4))
    assert {value.dtype for value in model.parameters()} == {torch.float64 if precision == "fp64" else torch.float32}
    assert result.metrics["val_loss"] == pytest.approx(expected, abs=close)
    assert result.metrics["val_loss"] != expected


def test_deterministic_algorithms_only_inside(configure) -> None:
    inside: list[bool] = []

    class Watcher(Recorder):
        def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
            inside.append(torch.are_deterministic_algorithms_enabled())

    train(TinyDetector(), configure(engine__steps=1, engine__deterministic=True), callbacks=[Watcher()])
    assert inside == [True]
    assert not torch.are_deterministic_algorithms_enabled()


class Blind(torch.nn.Module):
    def losses(self, batch):
        return {}


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        (
            lambda: TinyDetector(num_classes=3),
            {},
            "TinyDetector.num_classes is 3, but the data 'squares' has 2 classes",
        ),
        (TinyDetector, {"model": {"type": "own", "num_classes": 5}}, "model.num_classes is 5, but the data 'squares'"),
        (TinyDetector, {"engine__monitor": "mask_ap"}, "is for masks, which TinyDetector does not predict"),
        (Blind, {}, "Blind has no method detect"),
    ],
)
def test_what_does_not_fit_together(configure, model, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(model(), configure(**changes))


def test_losses_must_be_scalars_by_name(configure) -> None:
    class Odd(TinyDetector):
        def losses(self, batch):
            return {"box": super().losses(batch)["box"][None]}

    with pytest.raises(ValueError, match="'box' must be a 0-dim tensor"):
        train(Odd(), configure())


def test_nothing_to_evaluate_on_is_found_before_training(tmp_path: Path) -> None:
    empty = Sample(image=np.zeros((32, 32, 3), np.uint8))
    shards = write_shards(tmp_path / "shards")
    write_split([empty], shards, split="val", categories=CATEGORIES)
    model = TinyDetector()
    with pytest.raises(ValueError, match="no object"):
        train(model, tiny_config(tmp_path / "run", shards))
    assert model.passes == 0


def test_more_workers_than_were_started(configure) -> None:
    with pytest.raises(ValueError, match=r"torch\.distributed has not been initialised"):
        train(TinyDetector(), configure(), worker=LocalWorker(device=torch.device("cpu"), world_size=2))
