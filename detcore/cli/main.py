"""The whole command: its parser, its story, and what its errors look like."""

import argparse
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout

import detcore
from detcore.cli import (
    bench,
    checkpoints,
    comparing,
    completion,
    data,
    export,
    machine,
    models,
    predicting,
    report,
    serving,
    training,
    zoo,
)
from detcore.cli.commands import TERMINAL, USER_ERROR, Answer, Commands, Parser, check_writable, write_json

_OUR_FAULT = 3
_INTERRUPTED = 130  # 128 + the number of the signal, as shells have it
_BROKEN_PIPE = 141

_CHAPTERS = (
    ("look at data", (data,)),
    ("train and measure", (training, report)),
    ("keep models", (checkpoints, models, zoo, comparing)),
    ("use a model", (predicting, serving, export)),
    ("this machine", (bench, machine, completion)),
)
"""The commands as `detcore --help` tells them: the modules that declare those of each chapter."""

_STORY = """\
usage: detcore COMMAND …     detcore COMMAND --help has examples

Object detection from raw images to a registered, deployed model.
"""
_EXAMPLES = """
from photographs in COCO's, VOC's or YOLO's format to a deployed detector
  detcore data check photos/
  detcore train photos/ data.name=parts model=faster_rcnn_lite0 engine=finetune
  detcore evaluate runs/parts-faster-rcnn-lite0
  detcore report runs/parts-faster-rcnn-lite0
  detcore register runs/parts-faster-rcnn-lite0
  detcore predict parts-faster-rcnn-lite0@champion scene.jpg --out drawn
  detcore serve parts-faster-rcnn-lite0@champion
  detcore export parts-faster-rcnn-lite0@champion --images photos/ --out parts.onnx

predicting in Python
  detcore.load("parts-faster-rcnn-lite0@champion").predict("scene.jpg")
"""
_WORDS = {
    "MODEL": "a registered name (name@alias, name/3; name is its latest version), a published folder, or to predict "
    "with or serve, a file that detcore export wrote",
    "options": "--help, --version, --traceback (show where an error comes from)",
}
_EXIT_CODES = {
    "0": "done",
    "1": "done, but the data has errors or images were skipped",
    "2": "something that you can mend, told in one line",
    "3": "a fault of detcore's own, with a traceback",
    "130, 143": "stopped by Ctrl-C, by SIGTERM; a training has checkpointed",
    "141": "the reader of a pipe has left",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
        The exit code, as `detcore --help` lists them.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # × and … where the locale has none
    try:
        try:
            return _run(_parsed(arguments))
        finally:
            if sys.stdout is not None:  # closed by the shell's >&-
                sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()  # nobody reads on, as with `| head`
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except OSError as error:  # a full disk shows only when what was printed is written
        _discard_output()
        print(f"detcore: standard output: {error.strerror}", file=sys.stderr)
        return USER_ERROR


def _discard_output() -> None:
    """Python would write what is left, and complain once more, when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(options: argparse.Namespace) -> int:
    if options.run is None:
        options.parser.print_help(sys.stderr)
        return USER_ERROR
    called = options.parser.prog
    json_file = getattr(options, "json", None)
    try:
        if isinstance(json_file, str):
            check_writable(json_file)
        with redirect_stdout(sys.stderr) if options.answers and json_file == TERMINAL else nullcontext():
            outcome = options.run(options)
        return _shown(outcome, json_file) if isinstance(outcome, Answer) else outcome or 0
    except BrokenPipeError:
        raise
    except Exception as error:
        line = _remedy(error)
        if line is None or options.traceback or os.environ.get("DETCORE_DEBUG") == "1":
            traceback.print_exc()
        if line is None:
            print(f"{called}: a fault of detcore's own: please report the lines above", file=sys.stderr)
            return _OUR_FAULT
        print(f"{called}: {line}", file=sys.stderr)
        return USER_ERROR


def _shown(answer: Answer, json_file: str | None) -> int:
    if json_file is not None:
        write_json(answer.facts, json_file)
    if json_file != TERMINAL and answer.text != "":
        if isinstance(answer.text, str):
            print(answer.text)
        else:
            from rich.console import Console

            Console().print(answer.text)
    return answer.code


def _remedy(error: Exception) -> str | None:
    """One line for what the user can mend, None for other errors."""
    said = "; ".join(" ".join(line.split()) for line in str(error).splitlines())
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ValueError | OSError):
        return said
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("detcore"):
        return f"{said}; it comes with: pip install 'detcore[workflow,export,video]'"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return f"out of memory: take fewer or smaller images at a time ({said[:200]})"
    return None


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options. Overrides of the configuration may stand anywhere, which argparse alone does not let them."""
    parser = build_parser()
    completion.complete(parser)
    options, rest = parser.parse_known_args(arguments)
    takes_overrides = hasattr(options, "overrides")
    unknown = [word for word in rest if word.startswith("-") or "=" not in word or not takes_overrides]
    if unknown:
        options.parser.unknown(unknown)
    if rest:
        options.overrides += rest
    return options


class _StoryParser(Parser):
    """Whose help tells the commands by chapters."""

    chapters: Sequence[tuple[str, dict[str, str]]] = ()

    def format_help(self) -> str:
        lines = [_STORY]
        for title, summaries in self.chapters:
            lines += [title, *_columns(summaries)]
        return "\n".join([*lines, _EXAMPLES, *_columns(_WORDS, indent=0), "", "exit codes", *_columns(_EXIT_CODES), ""])


def _columns(told: Mapping[str, str], *, indent: int = 2) -> Iterator[str]:
    """Each name, and beside it what is told of it, as wide as the terminal is."""
    width = max(shutil.get_terminal_size().columns - 1, 40)
    beside = indent + 12
    for name, words in told.items():
        first = f"{'':{indent}}{name:<{beside - indent}}"
        yield from textwrap.wrap(words, width, initial_indent=first, subsequent_indent=" " * beside)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = _StoryParser(prog="detcore")
    parser.set_defaults(run=None, parser=parser)
    parser.add_argument("--version", action="version", version=f"detcore {detcore.__version__}")
    parser.add_argument("--traceback", action="store_true", help="show where an error comes from")
    commands = Commands(parser)
    chapters = []
    for title, modules in _CHAPTERS:
        before = set(commands.summaries)
        for module in modules:
            module.declare(commands)
        new = {name: summary for name, summary in commands.summaries.items() if name not in before}
        chapters.append((title, new))
    parser.chapters = chapters
    return parser
