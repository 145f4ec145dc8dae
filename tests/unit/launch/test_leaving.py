"""Signals to the driver of a search."""

import signal
import threading
import time
from pathlib import Path

import pytest

from detcore.launch.lock import only_training
from detcore.launch.stopping import FILE_NAME
from detcore.launch.tuning.leaving import Leaving
from detcore.launch.tuning.record import trial_folder


def test_trials_leave_before_ray_tune_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNE_DISABLE_SIGINT_HANDLER", raising=False)
    folder = trial_folder(tmp_path, 3)
    folder.mkdir(parents=True)
    events = []
    busy = threading.Event()

    def train() -> None:
        with only_training(folder):
            busy.set()
            while not (folder / FILE_NAME).exists():
                time.sleep(0.01)
            time.sleep(0.3)  # it saves
            events.append("saved")

    before = signal.signal(signal.SIGUSR1, lambda number, frame: events.append("told"))
    thread = threading.Thread(target=train)
    thread.start()
    try:
        with Leaving(tmp_path) as leaving:
            busy.wait()
            assert not leaving.wanted
            signal.raise_signal(signal.SIGTERM)
            assert leaving.wanted
            leaving.leave([3])
            assert events == ["saved", "told"]
            assert not leaving.wanted
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
