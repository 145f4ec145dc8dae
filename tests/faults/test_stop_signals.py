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

from detcore.engine import LocalWorker
from detcore.engine.signals import StopRequest

SCRIPT = """
import sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from tiny_training import TinyDetector, tiny_config, train

class Slow(TinyDetector):
    def losses(self, batch):
        if self.passes == 5:
            print("ready", flush=True)
            time.sleep(float(sys.argv[3]))  # a signal comes in the middle of a step
        return super().losses(batch)

result = train(Slow(), tiny_config(Path(sys.argv[1]), Path(sys.argv[2])))
sys.exit(result.exit_code)
"""


def started(run_dir: Path, shards: Path, *, seconds: float) -> subprocess.Popen[str]:
    """A training of its own, in its sixth step."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(run_dir), str(shards), str(seconds)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any(line == "ready\n" for line in process.stdout)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_step_is_finished_and_saved(configure, tiny_shards: Path, number: int, code: int) -> None:
    config = configure()
    process = started(Path(config.run_dir), tiny_shards, seconds=0.5)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"{signal.Signals(number).name}: finishing the step, then a checkpoint" in said
    assert checkpoint_of(config, 6)["record"]["state"]["step"] == 6


def test_a_second_one_exits_at_once(configure, tiny_shards: Path) -> None:
    config = configure()
    process = started(Path(config.run_dir), tiny_shards, seconds=60)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert time.monotonic() - before < 20  # not the minute that the step takes
    assert not (Path(config.run_dir) / "checkpoints" / "step-00000006").exists()


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
