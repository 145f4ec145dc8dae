"""How sub-commands are declared: each group of them is a module with a `declare(commands)`."""

import argparse
from collections.abc import Callable
from typing import Any

USER_ERROR = 2
Run = Callable[[argparse.Namespace], int | None]


class Commands:
    """The sub-commands of one parser.

    Args:
        parser: that they are added to.
    """

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._parsers: Any = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(self, name: str, summary: str, run: Run, *, examples: str) -> argparse.ArgumentParser:
        """A command, whose arguments the caller adds; `run` gives its exit code, None for 0."""
        parser = self._parser(name, summary, f"examples:\n{examples}")
        parser.set_defaults(run=run, called=parser.prog)
        return parser

    def group(self, name: str, summary: str, *, examples: str) -> "Commands":
        """A command that has commands of its own."""
        return Commands(self._parser(name, summary, f"examples:\n{examples}"))

    def _parser(self, name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = self._parsers.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        return parser
