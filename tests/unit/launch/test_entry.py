"""Errors of the scripts: one line and a status for what a user can mend, a traceback for our own."""

import sys
from collections.abc import Callable, Sequence

import pytest

from detcore.launch import parser, read_config, run_main


def raising(error: BaseException) -> Callable[[Sequence[str]], int]:
    def main(arguments: Sequence[str]) -> int:
        raise error

    return main


def status_of(main: Callable[[Sequence[str]], int], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(SystemExit) as exited:
        run_main(main)
    assert isinstance(exited.value.code, int)
    return exited.value.code


@pytest.mark.parametrize("error", [ValueError("optim.lr: must be > 0"), OSError("disk full")])
def test_a_users_error_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(raising(error), monkeypatch) == 2
    assert capsys.readouterr().err == f"error: {error}\n"


def test_debug_gives_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETCORE_DEBUG", "1")
    with pytest.raises(ValueError, match="lr"):
        run_main(raising(ValueError("lr")))


def test_our_own_errors_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError):
        run_main(raising(KeyError("bug")))


def test_ctrl_c_is_130_and_mains_status_is_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert status_of(raising(KeyboardInterrupt()), monkeypatch) == 130
    assert status_of(lambda arguments: 143, monkeypatch) == 143


def test_overrides_do_not_go_with_a_composed_file(tmp_path) -> None:
    arguments = parser(None).parse_args(["--params", str(tmp_path / "params.yaml"), "optim.lr=1"])
    with pytest.raises(ValueError, match="make params"):
        read_config(arguments)
