import io

import pytest
from rich.console import Console

from detcore.config import EngineConfig
from detcore.engine import progress
from detcore.engine.progress import ProgressLine

ENGINE = EngineConfig(steps=100, batch_size=8)
METRICS = {"loss": 1.25, "images_per_second": 4.0, "data_wait_seconds": 0.5}


def shown(*, terminal: bool, **arguments) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=140, highlight=False)
    with ProgressLine(ENGINE, step=10, console=console, **arguments) as line:
        line.step(11)
        line.step(40, metrics=METRICS)
        line.evaluation(40, {"box_ap": 12.345, "val_loss": 0.5})
    return text.getvalue()


def test_plain_lines_away_from_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "memory_bytes", lambda: 3 * 2**29)
    # 60 steps of 8 images at 4 images/s are 120 s; half a second of each 2 s step is waited.
    assert shown(terminal=False, shown=True).splitlines() == [
        "step 40/100  loss 1.2500  4.0 images/s  0:02:00 left  1.50 GiB  data wait 25%",
        "step 40/100  evaluation: box_ap 12.35  val_loss 0.5",
    ]


def test_a_line_at_least_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0.0)
    assert shown(terminal=False, shown=True).startswith("step 11/100")


def test_a_live_bar_on_a_terminal() -> None:
    text = shown(terminal=True, shown=True)
    for part in ("40/100", "loss 1.2500", "4.0 images/s", "0:02:00 left", "GiB", "evaluation: box_ap 12.35"):
        assert part in text


def test_other_ranks_are_silent() -> None:
    assert shown(terminal=False, shown=False) == shown(terminal=True, shown=False) == ""


def test_memory_is_this_processs() -> None:
    assert 50 * 2**20 < progress.memory_bytes() < 100 * 2**30
