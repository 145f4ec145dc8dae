"""Ctrl-C and SIGTERM: a checkpoint, then out; a second one exits at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_training import StopAfter, TinyDetector, checkpoint_of, same, train
from torch import Tensor

from detcore.engine import LocalWorker
from detcore.engine.signals import StopRequest
from detcore.structures.batch import Batch

SCRIPT = """
import sys, time
from pathlib import Path
from tiny_training import TinyDetector, tiny_config, train

class Slow(TinyDetector):
    def losses(self, batch):
        print("ready", flush=True)
        time.sleep(60)
        return super().losses(batch)

train(Slow(), tiny_config(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_step_is_finished_and_saved(configure, capfd: pytest.CaptureFixture[str], number: int, code: int) -> None:
    class Interrupted(TinyDetector):
        def losses(self, batch: Batch) -> dict[str, Tensor]:
            if self.passes == 5:  # in the middle of the sixth step
                signal.raise_signal(number)
            return super().losses(batch)

    config = configure()
    result = train(Interrupted(), config)
    assert (result.step, result.stopped, result.exit_code) == (6, signal.Signals(number).name, code)
    assert f"{signal.Signals(number).name}: finishing the step, then a checkpoint" in capfd.readouterr().err
    assert checkpoint_of(config, 6)["record"]["state"]["step"] == 6
    assert train(TinyDetector(), config).step == 10


def test_a_second_one_exits_at_once(configure, tiny_shards: Path) -> None:
    config = configure()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, config.run_dir, str(tiny_shards)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    assert any(line == "ready\n" for line in process.stdout)
    process.send_signal(signal.SIGINT)
    assert any("once more to exit at once" in line for line in process.stderr)
    assert process.poll() is None
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert time.monotonic() - before < 20  # not the minute that the step takes
    assert not (Path(config.run_dir) / "checkpoints").exists()


def test_a_stop_during_an_evaluation_is_made_up_for(configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not wait for the evaluation's end, and the resumed run is as if never stopped."""
    whole = configure(run="whole")
    train(TinyDetector(), whole)

    config, model = configure(), TinyDetector()
    detect, seen = TinyDetector.detect, []

    def interrupting(self, batch):
        if not seen:
            os.kill(os.getpid(), signal.SIGINT)
        seen.append(len(batch))
        return detect(self, batch)

    monkeypatch.setattr(TinyDetector, "detect", interrupting)
    result = train(model, config)
    assert (result.step, result.stopped, result.metrics, seen) == (4, "SIGINT", {}, [4])  # one batch of two
    monkeypatch.setattr(TinyDetector, "detect", detect)
    train(TinyDetector(), config)
    for step in (9, 10):
        assert same(checkpoint_of(config, step), checkpoint_of(whole, step))


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest(LocalWorker(device=torch.device("cpu"))) as stop:
        assert signal.getsignal(signal.SIGINT) != before
        assert stop.agreed(0) is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.agreed(1) == "SIGTERM"
    assert signal.getsignal(signal.SIGINT) == before


def test_a_worker_may_ask_for_it_too() -> None:
    model = TinyDetector()
    with StopRequest(StopAfter(model, 1)) as stop:
        assert stop.agreed(0) is None
        model.passes = 1
        assert stop.agreed(1) == "requested"
        model.passes = 0
        assert stop.agreed(2) == "requested"  # it stays
