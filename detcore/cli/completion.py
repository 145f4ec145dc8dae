"""Shell completion, by argcomplete: commands, options, models of the registry, recipes, keys of the configuration."""

import argparse
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from detcore.cli.commands import Commands

if TYPE_CHECKING:
    from argcomplete.completers import BaseCompleter

_COMPLETION = """\
  eval "$(detcore completion bash)"                   (in ~/.bashrc)
  eval "$(detcore completion zsh)"                    (in ~/.zshrc, after compinit)
  detcore completion fish > ~/.config/fish/completions/detcore.fish"""
_OWN_FOLDERS = "runs/*/model/model.json"


def declare(commands: Commands) -> None:
    """Adds the command."""
    summary = "print what makes the shell complete commands, options, models and settings"
    command = commands.add("completion", summary, _completion, examples=_COMPLETION)
    command.add_argument("shell", choices=("bash", "zsh", "fish"), metavar="bash|zsh|fish")


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers the shell and ends the process, where it was the shell that asked."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser, always_complete_options=False, default_completer=cast("BaseCompleter", _words))


def _completion(options: argparse.Namespace) -> None:
    from argcomplete.shell_integration import shellcode

    print(shellcode(["detcore"], shell=options.shell))


def _words(prefix: str, action: argparse.Action, **_: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    found: list[str] = []
    if action.dest in ("overrides", "words"):
        found = _overrides(prefix)
    elif action.dest == "model":
        found = [*_registered(), *(str(path.parent) for path in sorted(Path().glob(_OWN_FOLDERS)))]
    elif action.dest == "names":
        found = [name for group, name in _recipes() if group == "model"]
    if action.dest != "names" and "=" not in prefix:
        found += FilesCompleter()(prefix)
    return found


def _registered() -> list[str]:
    """The names in a registry of this machine. MLflow itself takes seconds to import, which is no time for a key."""
    place = os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    if not place.startswith("sqlite:///"):
        return []
    with suppress(sqlite3.Error), closing(sqlite3.connect(f"file:{place[10:]}?mode=ro", uri=True)) as database:
        named = database.execute("SELECT name, alias FROM registered_model_aliases ORDER BY 1, 2").fetchall()
        versions = database.execute("SELECT name, version FROM model_versions ORDER BY 1, 2").fetchall()
        return [f"{name}@{alias}" for name, alias in named] + [f"{name}/{version}" for name, version in versions]
    return []


def _recipes() -> Iterator[tuple[str, str]]:
    from detcore.config import config_directory

    with suppress(ValueError):
        for file in sorted(config_directory().glob("*/*.yaml")):
            yield file.parent.name, file.stem


def _overrides(prefix: str) -> list[str]:
    """`model=` and its recipes; `optim.`, and the keys of that section."""
    section, dot, _ = prefix.partition(".")
    if dot and "=" not in prefix:
        from detcore.config import Config

        known = Config.model_fields.get(section)
        keys = getattr(known.annotation, "model_fields", {}) if known else {}
        return [f"{section}.{key}=" for key in keys]
    if "=" in prefix:
        return [f"{group}={name}" for group, name in _recipes()]
    groups = dict.fromkeys(group for group, _ in _recipes())
    return [f"{group}=" for group in groups] + [f"{group}." for group in groups]
