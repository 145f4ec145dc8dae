"""What a worker prints arrives on the driver's terminal, whole and once."""

import logging
import sys
import threading
from pathlib import Path

import pytest
from rich.console import Console

from detcore.launch.console import Relay, Terminal, speaking_to


def test_prints_errors_and_warnings_arrive_in_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run" / ".console"
    with Relay(path) as relay:
        with speaking_to(path, Terminal(is_terminal=False, columns=80)):
            print("step 1")
            logging.getLogger("detcore.tracking").warning("MLflow is away")
            print("ümlaut", file=sys.stderr)
            relay.move()
            print("step 2")
        relay.move()
    assert capsys.readouterr().out == "step 1\nMLflow is away\nümlaut\nstep 2\n"
    assert not path.exists()


def test_what_was_moved_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / ".console"
    with Relay(path) as relay, speaking_to(path, Terminal(is_terminal=False, columns=80)):
        for _ in range(20):
            print("x" * 1000)
            relay.move()
            assert path.stat().st_size == 0


def test_nothing_is_lost_between_a_read_and_its_truncation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / ".console"

    def speak() -> None:
        with speaking_to(path, Terminal(is_terminal=False, columns=80)):
            for number in range(2000):
                sys.stdout.write(f"{number}\n")

    with Relay(path) as relay:
        speaker = threading.Thread(target=speak)
        speaker.start()
        while speaker.is_alive():
            relay.move()
    assert capsys.readouterr().out.split() == [str(number) for number in range(2000)]


def test_a_bar_is_drawn_for_the_drivers_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / ".console"
    with Relay(path), speaking_to(path, Terminal(is_terminal=True, columns=47)):
        console = Console()
        assert console.is_terminal
        assert console.width == 47
