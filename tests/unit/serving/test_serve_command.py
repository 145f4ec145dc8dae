"""`detcore serve`: what is wrong with what is asked for is told in one line, before anything starts."""

import socket
from pathlib import Path

import pytest
from published_shapes import publish

from detcore.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(publish(tmp_path_factory.mktemp("models") / "shapes"))


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["serve", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--replicas", "0"), "--replicas 0 is less than 1"),
        (("--replicas", "2", "--local"), "--replicas 2: --local is one, in this process"),
        (("--max-batch", "0"), "--max-batch: Input should be greater than or equal to 1, got 0"),
        (("--max-wait-ms", "-1"), "--max-wait-ms: "),
        (("--timeout-seconds", "0"), "--timeout-seconds: "),
        (("--token-file", "absent.txt"), "absent.txt"),
        (("--local", "--host", "192.0.2.1"), "cannot listen at 192.0.2.1:8000: "),
        (("--local", "--host", "no-such-host.invalid"), "cannot listen at no-such-host.invalid:8000: "),
        (("--local", "--port", "99999"), "cannot listen at 127.0.0.1:99999: "),
        (("--local", "--device", "cuda:99", "--port", "0"), "cuda:99"),
    ],
)
def test_a_wrong_option_is_named(
    capsys: pytest.CaptureFixture[str], model: str, arguments: tuple[str, ...], reason: str
) -> None:
    assert reason in error_of(capsys, model, *arguments)


@pytest.mark.parametrize("where", [(), ("--local",)])
def test_there_must_be_such_a_model_and_a_free_port(
    capsys: pytest.CaptureFixture[str],
    model: str,
    tmp_path: Path,
    where: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no registry at" in error_of(capsys, "absent@champion", *where, "--port", "0")
    assert "absent.onnx: no such file" in error_of(capsys, "absent.onnx", *where, "--port", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"cannot listen at 127.0.0.1:{port}: " in error_of(capsys, model, *where, "--port", port)


def test_an_empty_token_is_none(capsys: pytest.CaptureFixture[str], model: str, tmp_path: Path) -> None:
    (tmp_path / "token.txt").write_text("\n")
    assert "the token must be printable ASCII" in error_of(capsys, model, "--token-file", str(tmp_path / "token.txt"))
