"""Trouble while a checkpoint is written beside the training."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from tiny_training import TinyDetector, checkpoint_of, same, train

from detcore.engine import CheckpointError, checkpoint
from detcore.structures.batch import Batch

SCRIPT = """
import sys, time
from pathlib import Path
from tiny_training import TinyDetector, tiny_config, train
from detcore.engine import atomic

write = atomic._write_through

def slow(path, contents):
    write(path, contents)
    if path.match("*step-00000006*/training.pt"):
        print("writing", flush=True)
        time.sleep(60)

atomic._write_through = slow
train(TinyDetector(), tiny_config(Path(sys.argv[1]), Path(sys.argv[2]), engine__eval_every=None))
"""


class Gated(TinyDetector):
    """Does something before it takes a batch."""

    def __init__(self, **before: object) -> None:
        super().__init__()
        self.before = {int(number.removeprefix("batch")): action for number, action in before.items()}

    def losses(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self.training and (action := self.before.pop(self.passes + 1, None)) is not None:
            action()
        return super().losses(batch)


class SlowWrites:
    """Instead of `write_folder`: what it writes of a step waits until `go` is set, and `done` is set afterwards."""

    def __init__(self, patch: pytest.MonkeyPatch, *, step: int, error: OSError | None = None) -> None:
        self.begun, self.go, self.done = threading.Event(), threading.Event(), threading.Event()
        write = checkpoint.write_folder

        def slow(path: Path, files: Iterable[tuple[str, checkpoint.Contents]]) -> None:
            if path.name != f"step-{step:08d}":
                return write(path, files)
            self.begun.set()
            assert self.go.wait(30)
            try:
                if error is not None:
                    raise error
                write(path, files)
            finally:
                self.done.set()

        patch.setattr(checkpoint, "write_folder", slow)


@pytest.mark.parametrize("changes", [{}, {"optim__type": "adamw", "engine__ema_decay": 0.9}], ids=["sgd", "adamw"])
def test_a_checkpoint_is_of_its_step(configure, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]) -> None:
    """Two steps later, and after an evaluation, which changes the model's parameters for a while."""
    whole = configure(run="whole", engine__async_checkpoints=False, engine__keep_every=3, **changes)
    train(TinyDetector(), whole)
    slow = SlowWrites(monkeypatch, step=3)
    config = configure(engine__eval_every=5, engine__keep_every=3, **changes)
    model = Gated(batch4=lambda: slow.begun.wait(30), batch5=slow.go.set)
    model.before[6] = lambda: slow.done.wait(30)
    train(model, config)
    assert slow.done.is_set()
    found, expected = checkpoint_of(config, 3), checkpoint_of(whole, 3)
    assert same(found, expected)


def test_a_failure_is_told_at_the_next_steps_edge(configure, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowWrites(monkeypatch, step=6, error=OSError(28, os.strerror(28)))
    slow.go.set()
    model = Gated(batch7=lambda: slow.done.wait(30) and time.sleep(0.1))
    config = configure(engine__eval_every=None)
    with pytest.raises(CheckpointError) as caught:
        train(model, config)
    assert model.passes == 7
    folder = Path(config.run_dir) / "checkpoints"
    assert str(caught.value) == (
        f"{folder / 'step-00000006'}: cannot save this checkpoint (No space left on device): make room, then run the "
        "same command again; the one of step 3 still stands"
    )
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]
    monkeypatch.undo()
    model = Gated()
    assert train(model, config).step == 10
    assert model.passes == 7


def test_a_failure_is_not_lost_when_the_training_fails_too(
    configure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    SlowWrites(monkeypatch, step=3, error=OSError(28, os.strerror(28))).go.set()

    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(Gated(batch4=fail), configure())
    assert "step-00000003: cannot save this checkpoint (No space left on device)" in capsys.readouterr().out


def test_a_stop_waits_for_what_is_being_written(configure, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowWrites(monkeypatch, step=3)
    later = threading.Timer(0.3, slow.go.set)

    def stop() -> None:
        later.start()
        signal.raise_signal(signal.SIGTERM)

    config = configure(engine__eval_every=None)
    result = train(Gated(batch4=stop), config)
    assert (result.step, result.stopped) == (4, "SIGTERM")
    for step in (3, 4):
        assert checkpoint_of(config, step)["record"]["state"]["step"] == step


def test_killed_in_the_middle_of_writing(configure, tiny_shards: Path) -> None:
    """The half-written checkpoint is no checkpoint; the training goes on from the one before, as if never stopped."""
    whole, config = (configure(run=run, engine__eval_every=None) for run in ("whole", "killed"))
    train(TinyDetector(), whole)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, config.run_dir, str(tiny_shards)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any(line == "writing\n" for line in process.stdout)
    process.kill()
    process.communicate(timeout=30)
    folder = Path(config.run_dir) / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == [".step-00000006.tmp", "step-00000003"]
    model = TinyDetector()
    train(model, config)
    assert model.passes == 7
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000009", "step-00000010"]
    assert same(checkpoint_of(config, 10), checkpoint_of(whole, 10))
