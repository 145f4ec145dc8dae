"""Ctrl-C and SIGTERM on the driver."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from detcore.launch import stopping
from detcore.launch.stopping import StopFile


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_the_workers_and_handlers_are_put_back(tmp_path: Path, number: signal.Signals) -> None:
    path, before = tmp_path / ".stop", signal.getsignal(number)
    with StopFile(path) as stop:
        assert stop.received is None
        assert not path.exists()
        os.kill(os.getpid(), number)
        assert stop.received == number.name
        assert path.exists()
    assert signal.getsignal(number) is before
    assert not path.exists()


def test_the_second_signal_exits_at_once(tmp_path: Path) -> None:
    # The file alone: its package imports torch, which takes a busy machine most of a minute.
    script = (
        "import os, runpy, signal, sys; from pathlib import Path\n"
        "with runpy.run_path(sys.argv[1])['StopFile'](Path(sys.argv[2])):\n"
        "    os.kill(os.getpid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGTERM); signal.pause()\n"
    )
    command = [sys.executable, "-c", script, stopping.__file__, str(tmp_path / ".stop")]
    done = subprocess.run(command, capture_output=True, timeout=100)
    assert done.returncode == 128 + signal.SIGTERM, done.stderr  # as shells count


def test_a_stop_file_of_an_earlier_run_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".stop"
    path.touch()
    with StopFile(path):
        assert not path.exists()
