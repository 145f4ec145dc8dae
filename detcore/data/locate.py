"""Which data a command is about: a folder, raw or prepared, or what `conf/data` names."""

import re
from collections.abc import Sequence
from pathlib import Path

from detcore.config import Config, load
from detcore.config.loading import config_directory
from detcore.config.words import as_word
from detcore.data.description import read_description
from detcore.data.formats.guess import guess_format

_ANY = "coco"
"""Gives the transforms for data that no file of conf/data is about."""


def locate(words: Sequence[str], *, format: str | None = None) -> Config:
    """The configuration of some data.

    Args:
        words: overrides such as `data=bccd` or `data.root=DIR`, and at most one folder: a raw one, or one of shards.
            The file of conf/data that is about them gives the transforms, unless an override names another.
        format: of a raw folder; None takes that of the override `data=NAME`, or else guesses.

    Raises:
        ValueError: no folder and no override, or several folders; a folder that does not exist or whose format nobody
            can tell; what `config.load` refuses.
    """
    folders = [Path(word) for word in words if "=" not in word or Path(word).is_dir()]
    overrides = [word for word in words if "=" in word and not Path(word).is_dir()]
    if len(folders) > 1:
        raise ValueError(f"{len(folders)} folders: {' '.join(map(str, folders))}; give one")
    if not folders:
        if not overrides:
            raise ValueError("name the data: a folder, or data=NAME of conf/data")
        return load([*overrides, *([f"data.format={format}"] if format else [])])
    folder = folders[0]
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    if (folder / "dataset.json").is_file():
        named, own = _of_shards(folder)
    else:
        named, own = "", [f"data.root={as_word(str(folder))}"]
    if not any(word.startswith("data=") for word in overrides):
        format = format or ("" if named else guess_format(folder))
        own = [f"data={named or _preset(format)}", f"data.name={as_word(_name_of(folder))}", *own]
    return load([*own, *([f"data.format={format}"] if format else []), *overrides])


def _of_shards(folder: Path) -> tuple[str, list[str]]:
    name = str(read_description(folder)["name"])
    # A root that lies within the shards is nowhere: they are taken as they are.
    return _preset(name), [f"data.shards={as_word(str(folder))}", f"data.root={as_word(str(folder / 'raw'))}"]


def _preset(name: str) -> str:
    return name if (config_directory() / "data" / f"{name}.yaml").is_file() else _ANY


def _name_of(folder: Path) -> str:
    return re.sub(r"[^\w -]+|^[ -]+|[ -]+$", "_", folder.resolve().name) or "data"
