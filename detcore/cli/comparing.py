"""The command that compares two models."""

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from detcore.cli.commands import Answer, Commands

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from detcore.zoo.diff import Change, Pair

_DIFF = """\
  detcore diff digits-mask-rcnn@champion digits-mask-rcnn/7
  detcore diff digits-mask-rcnn@champion runs/digits-mask-rcnn
  detcore diff digits-mask-rcnn/6 digits-mask-rcnn/7 --json diff.json"""
_MOST_CLASSES = 20
_LONGEST = 60
"""Characters of a value that is shown; --json has all."""


def declare(commands: Commands) -> None:
    """Adds the command."""
    summary = "compare two models: figures and how sure their difference is, settings, data, weights"
    diff = commands.add("diff", summary, _diff, examples=_DIFF, answers=True)
    diff.add_argument("first", metavar="A", help="NAME@ALIAS, NAME/VERSION, NAME (the latest), or the folder of a run")
    diff.add_argument("second", metavar="B", help="the same; better and worse are said of this one")
    diff.add_argument("--sets", type=int, default=1000, help="draws of the bootstrap (default: 1000)")


def _diff(options: argparse.Namespace) -> Answer:
    from rich.console import Group

    from detcore.zoo.diff import diff
    from detcore.zoo.opening import open_dossier

    if options.sets < 2:
        raise ValueError(f"--sets {options.sets}: at least 2 draws make an interval")
    with open_dossier(options.first) as first, open_dossier(options.second) as second:
        found = diff(first, second, sets=options.sets)
    parts: list[RenderableType] = [f"A  {found.first}\nB  {found.second}\n"]
    for title, changes in (("test", found.test), ("val", found.val), ("AP by class", _shown(found.classes))):
        if changes:
            parts += [_changes(title, changes), ""]
    parts += [found.note, *_pairs("settings", found.config), *_pairs("data", found.data), *_pairs("model", found.model)]
    return Answer(facts=found.to_dict(), text=Group(*parts))


def _shown(classes: Sequence["Change"]) -> Sequence["Change"]:
    """Of many classes those that gained and those that lost most."""
    half = _MOST_CLASSES // 2
    return classes if len(classes) <= _MOST_CLASSES else (*classes[:half], *classes[-half:])


def _changes(title: str, changes: Sequence["Change"]) -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, overflow="fold")
    for name in ("A", "B", "B - A", "95 %"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("B is")
    for change in changes:
        sure = "" if change.low is None else f"{change.low:+.2f} … {change.high:+.2f}"
        delta = "" if change.delta is None else f"{change.delta:+.2f}"
        table.add_row(change.name, _figure(change.first), _figure(change.second), delta, sure, change.verdict)
    return table


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _pairs(title: str, pairs: dict[str, "Pair"]) -> Iterator["RenderableType"]:
    from rich.table import Table

    if not pairs:
        yield f"\n{title}: the same"
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (title, "A", "B"):
        table.add_column(name, overflow="fold")
    for name, values in pairs.items():
        table.add_row(name, *(_value(value) for value in values))
    yield from ("", table)


def _value(value: Any) -> str:
    text = "-" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
