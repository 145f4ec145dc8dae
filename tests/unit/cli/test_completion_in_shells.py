"""Completion in the shells themselves, where they are installed."""

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

LINES = [
    ("detcore pred", "predict"),
    ("detcore predict --tta-s", "--tta-sizes"),
    ("detcore predict runs/parts/mo", "runs/parts/model"),
    ("detcore train model=retinanet_r5", "model=retinanet_r50_fpn"),
    ("detcore train optim.layer", "optim.layer_decay="),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a trained model, and a `detcore` on the PATH."""
    model = tmp_path / "runs/parts/model/model.json"
    model.parent.mkdir(parents=True)
    model.write_text("{}")
    command = tmp_path / "bin/detcore"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\n# PYTHON_ARGCOMPLETE_OK\nexec {sys.executable} -m detcore.cli "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=os.pathsep)
    monkeypatch.setenv("ZDOTDIR", str(tmp_path))
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(folder: Path) -> None:
    lines = "; ".join(f"complete -C '{line}'; echo ---" for line, _ in LINES)
    script = f"detcore completion fish | source; {lines}"
    done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True, timeout=120)
    answers = [answer.split() for answer in done.stdout.split("---\n")]
    for (line, expected), answer in zip(LINES, answers, strict=False):
        assert expected in answer, (line, done.stdout, done.stderr)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh(folder: Path) -> None:
    (folder / ".zshrc").write_text(
        'autoload -Uz compinit; compinit -u; PS1="> "; unsetopt zle_bracketed_paste; eval "$(detcore completion zsh)"\n'
    )
    child, terminal = pty.fork()
    if child == 0:
        os.execvp("zsh", ["zsh", "-i"])
    try:
        seen_until(terminal, "> ")
        for line, expected in LINES:
            os.write(terminal, f"{line}\t".encode())
            seen_until(terminal, f"{line.rpartition(' ')[0]} {expected}")
            os.write(terminal, b"\x15")  # an empty line again
    finally:
        os.write(terminal, b"\x15exit\r")
        os.close(terminal)
        os.waitpid(child, 0)


def seen_until(terminal: int, expected: str, *, seconds: float = 60) -> None:
    """Waits until the terminal shows it."""
    shown, deadline = "", time.monotonic() + seconds
    while expected not in shown:
        left = deadline - time.monotonic()
        assert left > 0 and select.select([terminal], [], [], left)[0], (expected, shown)
        shown += os.read(terminal, 4096).decode(errors="replace")
