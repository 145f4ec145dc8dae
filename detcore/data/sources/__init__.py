"""Where raw data comes from: made on the spot, or fetched, checked and unpacked."""

from pathlib import Path

from detcore.config import DataConfig, config_directory
from detcore.config.data import Archives, Digits, Files
from detcore.data.sources.archives import fetch_archives
from detcore.data.sources.digits import make_digits
from detcore.data.sources.files import fetch_files

__all__ = ["fetch_archives", "fetch_files", "make_digits", "obtain"]


def obtain(config: DataConfig, *, progress: bool = True) -> Path:
    """The raw folder `config.root`; from `config.source` where it does not exist yet.

    A folder of fetched data appears whole or not at all: one that holds anything is taken as it is. Scenes of digits
    are made anew when their configuration has changed.

    Raises:
        ValueError: it does not exist and nothing says where from, or it cannot be had.
    """
    root = Path(config.root)
    absent = not root.exists() or (root.is_dir() and not any(root.iterdir()))
    match config.source:
        case Digits():
            make_digits(root, config.source, progress=progress)
        case Archives() if absent:
            fetch_archives(root, config.source, progress=progress)
        case Files() if absent:
            fetch_files(root, config.source, sums=config_directory() / config.source.sums, progress=progress)
        case None if absent:
            raise ValueError(
                f"data.root: {root} {'is empty' if root.exists() else 'does not exist'} (seen from {Path.cwd()})"
            )
    if not root.is_dir():
        raise ValueError(f"data.root: {root} is not a folder")
    return root
