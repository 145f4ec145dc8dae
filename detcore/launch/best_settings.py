"""The file of settings between a search and the training that takes them."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from detcore.config import Config
from detcore.config.variation import BEST
from detcore.engine.atomic import write_file


def write_best(file: Path, overrides: Sequence[str], *, why: str) -> None:
    """Writes the overrides as a list, below a line that says where they come from."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = f"# {why}\n" + yaml.safe_dump(list(overrides), allow_unicode=True, width=1000)
    write_file(file, text.encode())


def write_nothing_found(config: Config) -> Path:
    """An empty list in the run's folder, where no search is asked for; gives the file."""
    file = Path(config.run_dir, BEST)
    write_best(file, [], why="No search (tune=none): training takes the settings of conf/.")
    return file
