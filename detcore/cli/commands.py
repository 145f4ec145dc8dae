"""How sub-commands are declared: each group of them is a module with a `declare(commands)`."""

import argparse
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from detcore.spelling import meant

if TYPE_CHECKING:
    from rich.console import RenderableType

FOUND_FAULTS = 1
USER_ERROR = 2
TERMINAL = "-"
"""What `options.json` is where JSON takes the text's place on standard output."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a command found out, or has done.

    Attributes:
        facts: what `--json` writes.
        text: for people, a string or what rich shows; '' shows nothing.
        code: the exit code.
    """

    facts: Any
    text: "RenderableType"
    code: int = 0


Run = Callable[[argparse.Namespace], Answer | int | None]


class Parser(argparse.ArgumentParser):
    """Whose errors are one line, with the word that was perhaps meant."""

    def error(self, message: str) -> NoReturn:
        choice = re.fullmatch(r"argument (.+): invalid choice: '(.*)' \(choose from (.*)\)", message, re.DOTALL)
        if choice:
            where, word, known = choice.groups()
            names = [name.strip("'\" ") for name in known.split(",")]
            what = "no such command" if where == "COMMAND" else f"{where} takes {', '.join(names)}"
            message = f"{word}: {what}{meant(word, names)}"
        self.exit(USER_ERROR, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def unknown(self, words: list[str]) -> NoReturn:
        """The error for words that no argument takes."""
        options = [name for action in self._actions for name in action.option_strings]
        self.error(f"{words[0]}: not an option or argument here{meant(words[0].partition('=')[0], options)}")


class Commands:
    """The sub-commands of one parser.

    Args:
        parser: that they are added to.

    Attributes:
        summaries: a command's name -> its summary, in the order in which they were added.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers: Any = parser.add_subparsers(metavar="COMMAND", parser_class=Parser)
        self.summaries: dict[str, str] = {}

    def add(
        self, name: str, summary: str, run: Run, *, examples: str, answers: bool = False
    ) -> argparse.ArgumentParser:
        """A command, whose arguments the caller adds.

        Args:
            summary: what it does, from a verb on, in small letters and without full stop.
            run: does it; gives an `Answer`, else its exit code, None for 0.
            examples: whole lines, indented by two.
            answers: `run` gives an `Answer`. The command then takes `--json`, with which all that is printed on the
                way goes to standard error: standard output is JSON alone.
        """
        parser = self._parser(name, summary, examples)
        parser.set_defaults(run=run, answers=answers)
        if answers:
            json_option(parser)
        return parser

    def group(self, name: str, summary: str, *, examples: str) -> "Commands":
        """A command that has commands of its own."""
        return Commands(self._parser(name, summary, examples))

    def _parser(self, name: str, summary: str, examples: str) -> argparse.ArgumentParser:
        self.summaries[name] = summary
        parser: argparse.ArgumentParser = self._parsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=None, parser=parser)  # a group by itself only shows its help
        return parser


def json_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--json [FILE]`: `options.json` is None, TERMINAL or the file's name."""
    parser.add_argument(
        "--json",
        metavar="FILE.json",
        nargs="?",
        const=TERMINAL,
        type=_json_file,
        help="also as JSON in this file; without a name, on standard output in place of the text",
    )


def write_json(facts: Any, name: str) -> None:
    """Into the file called so, or to standard output."""
    try:
        text = json.dumps(facts, indent=1, allow_nan=False)
    except ValueError:  # figures that there are none of: JSON has null for them, not NaN
        text = json.dumps(json.loads(json.dumps(facts), parse_constant=lambda _: None), indent=1)
    if name == TERMINAL:
        print(text)
    else:
        Path(name).write_text(text + "\n", encoding="utf-8")


def check_writable(name: str) -> None:
    """Raises ValueError before hours of work, not after."""
    file = Path(name)
    if name != TERMINAL and (file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK)):
        raise ValueError(f"--json {name}: no file can be written there")


def _json_file(name: str) -> str:
    if name != TERMINAL and Path(name).suffix != ".json" and not Path(name).is_dir():
        # `--json photo.jpg`, where the photograph was meant to be looked at
        raise argparse.ArgumentTypeError(f"{name}: name a file *.json, or give --json last, without a name")
    return name
