"""The whole command as a shell sees it: help, mistakes, JSON, pipes, terminals, completion."""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from detcore.cli import main
from detcore.cli.commands import Answer, Commands, Parser
from detcore.cli.main import build_parser

Output = pytest.CaptureFixture[str]


def leaves(parser: argparse.ArgumentParser, *words: str) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Each command that has none below it."""
    (below,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)] or [None]
    if below is None:
        yield words, parser
        return
    for name, inner in below.choices.items():
        yield from leaves(inner, *words, name)


LEAVES = dict(leaves(build_parser()))


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command_has_examples_that_parse(words: tuple[str, ...]) -> None:
    examples = [line for line in LEAVES[words].epilog.splitlines() if line.startswith(f"  detcore {' '.join(words)}")]
    if words != ("completion",):
        assert examples
    for line in examples:
        told = re.sub(r"\s+[|>].*|\s{3,}\(.*\)$", "", line.strip()).replace("'", "").split()[1:]
        if any("{" in word for word in told):  # a value of several words: shells keep it whole
            continue
        options, rest = build_parser().parse_known_args(told)
        assert options.run is not None and all("=" in word and not word.startswith("-") for word in rest)


def test_the_help_names_every_command_and_keeps_to_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    told = build_parser().format_help()
    chapters = told.split("\nfrom photographs")[0].splitlines()
    assert all(any(line.startswith(f"  {words[0]} ") for line in chapters) for words in LEAVES)
    assert max(map(len, chapters[4:])) < 60


def test_facts_come_as_json_everywhere() -> None:
    """Completion prints a script for the shell, and serve answers over HTTP."""
    assert {words for words, parser in LEAVES.items() if "--json" not in parser._option_string_actions} == {
        ("completion",),
        ("serve",),
    }


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pridict"], "detcore: pridict: no such command; did you mean predict? (see detcore --help)"),
        (
            ["predict"],
            "detcore predict: the following arguments are required: MODEL, SOURCE (see detcore predict --help)",
        ),
        (
            ["data", "chek"],
            "detcore data: chek: no such command; did you mean check? (see detcore data --help)",
        ),
        (
            ["predict", "m", "a.jpg", "--scroe=1"],
            "detcore predict: --scroe=1: not an option or argument here; did you mean --score? (see detcore predict "
            "--help)",
        ),
        (
            ["predict", "m", "--json", "a.jpg"],
            "detcore predict: argument --json: a.jpg: name a file *.json, or give --json last, without a name (see "
            "detcore predict --help)",
        ),
        (["doctor", "x=1"], "detcore doctor: x=1: not an option or argument here (see detcore doctor --help)"),
    ],
)
def test_a_slip_of_the_fingers_is_one_line(words: list[str], line: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    shown = capsys.readouterr()
    assert (stop.value.code, shown.out, shown.err) == (2, "", line + "\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["train", "modle=x"], "detcore train: configuration: modle: no such section; did you mean model?"),
        (
            ["train", "model=retinanet_r51_fpn"],
            "detcore train: configuration: model=retinanet_r51_fpn: no such file in conf/model; did you mean "
            "retinanet_r50_fpn?",
        ),
        (
            ["train", "engine.stpes=7"],
            "detcore train: configuration: engine.stpes: no such key; did you mean steps? (got 7)",
        ),
        (
            ["evaluate", "model.backbone.nrom=x"],
            "detcore evaluate: configuration: model.backbone.nrom: no such key; did you mean norm? (got 'x')",
        ),
        (["train", "nowhere"], "detcore train: nowhere: no such folder"),
        (
            ["models", "retinanet_r50_fnp"],
            "detcore models: no recipe 'retinanet_r50_fnp' in CONF/model; did you mean retinanet_r50_fpn?",
        ),
        (["doctor", "--json", "no/x.json"], "detcore doctor: --json no/x.json: no file can be written there"),
    ],
)
def test_a_misspelt_setting_is_one_line(
    words: list[str], line: str, capsys: Output, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETCORE_CONF", str(repository / "conf"))
    assert main(words) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", line.replace("CONF", str(repository / "conf")) + "\n")


def test_a_group_alone_shows_its_help(capsys: Output) -> None:
    assert main(["data"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.startswith("usage: detcore data ")


class TestExit:
    """What becomes of what a command gives back or raises."""

    def run(self, monkeypatch: pytest.MonkeyPatch, outcome: object, *words: str) -> int:
        def doing(options: argparse.Namespace) -> Answer:
            print("on the way")
            if isinstance(outcome, BaseException):
                raise outcome
            assert isinstance(outcome, Answer)
            return outcome

        parser = Parser(prog="detcore")
        parser.add_argument("--traceback", action="store_true")
        Commands(parser).add("do", "do it", doing, examples="", answers=True)
        monkeypatch.setattr(sys.modules["detcore.cli.main"], "build_parser", lambda: parser)
        return main([*words, "do", *(["--json"] if "--traceback" not in words else [])])

    def test_answer(self, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
        assert self.run(monkeypatch, Answer(facts={"a": [1]}, text="one", code=1)) == 1
        shown = capsys.readouterr()
        assert json.loads(shown.out) == {"a": [1]} and shown.err == "on the way\n"

    def test_no_number_is_null(self, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
        assert self.run(monkeypatch, Answer(facts={"ap": [float("nan"), 1.5]}, text="")) == 0
        assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {"ap": [None, 1.5]}

    @pytest.mark.parametrize(
        ("error", "code", "said"),
        [
            (ValueError("a: wrong\nb: wrong\n too"), 2, "detcore do: a: wrong; b: wrong; too\n"),
            (FileNotFoundError(2, "No such file or directory", "x"), 2, "detcore do: x: No such file or directory\n"),
            (MemoryError(), 2, "detcore do: out of memory: take fewer or smaller images at a time"),
            (ModuleNotFoundError("No module named 'cv2'", name="cv2"), 2, "it comes with: pip install 'detcore["),
            (RuntimeError("broken"), 3, "detcore do: a fault of detcore's own: please report the lines above\n"),
            (KeyboardInterrupt(), 130, "interrupted\n"),
        ],
    )
    def test_error(
        self, monkeypatch: pytest.MonkeyPatch, capsys: Output, error: BaseException, code: int, said: str
    ) -> None:
        assert self.run(monkeypatch, error) == code
        shown = capsys.readouterr()
        assert shown.out == "" and said in shown.err
        assert ("Traceback" in shown.err) == (code == 3)

    def test_traceback_on_request(self, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
        assert self.run(monkeypatch, ValueError("wrong"), "--traceback") == 2
        told = capsys.readouterr().err
        assert told.startswith("Traceback") and told.endswith("detcore do: wrong\n")


def test_a_closed_pipe_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "detcore.cli", "completion", "bash"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("shell", ["bash", "fish"])  # more and less than a buffer
def test_a_full_disk_is_one_line(shell: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "detcore.cli", "completion", shell], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2 and done.stderr.endswith(b"No space left on device\n")
    assert done.stderr.count(b"\n") == 1


def test_a_closed_standard_output_is_no_fault() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m detcore.cli completion bash >&-"], capture_output=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_locale_without_our_letters() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "detcore.cli", "--help"],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 0 and done.stdout.startswith(b"usage: detcore COMMAND ?")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(shell: str, capsys: Output) -> None:
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "_ARGCOMPLETE" in script and "detcore" in script


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("detcore ", {"train", "predict", "completion"}),
        ("detcore data sh", {"show "}),
        ("detcore predict --tta-", {"--tta-sizes", "--tta-no-flip"}),
        ("detcore predict ", {"runs/parts/model", "parts@champion", "parts/1"}),
        ("detcore train model=retinanet_r5", {"retinanet_r50_fpn "}),
        ("detcore train optim.l", {"optim.lr="}),
        ("detcore evaluate ru", {"runs/"}),
        ("detcore models panoptic_r5", {"panoptic_r50_fpn "}),
        ("detcore train --params ", {"settings.yaml "}),
    ],
)
def test_completion_answers(line: str, among: set[str], repository: Path, tmp_path: Path) -> None:
    """As bash asks: the line in the environment, the answer on descriptor 8."""
    import sqlite3

    (tmp_path / "runs" / "parts" / "model").mkdir(parents=True)
    (tmp_path / "runs" / "parts" / "model" / "model.json").touch()
    (tmp_path / "settings.yaml").touch()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:  # MLflow's own names, as migrations have kept them
        database.execute("CREATE TABLE registered_model_aliases (name, alias, version)")
        database.execute("CREATE TABLE model_versions (name, version)")
        database.execute("INSERT INTO registered_model_aliases VALUES ('parts', 'champion', 1)")
        database.execute("INSERT INTO model_versions VALUES ('parts', 1)")
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:",
        "_ARGCOMPLETE_IFS": "\v",
        "COMP_LINE": line,
        "COMP_POINT": str(len(line)),
        "COMP_TYPE": "9",
        "PYTHONPATH": str(repository),
        "DETCORE_CONF": str(repository / "conf"),
    }
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m detcore.cli 8>&1 9>&2 1>/dev/null"],
        cwd=tmp_path,
        env={**environment, **asked},
        capture_output=True,
        text=True,
        timeout=120,
    )
    words = set(done.stdout.split("\v"))
    assert among <= words or {word.strip() for word in among} <= {word.strip() for word in words}, done
