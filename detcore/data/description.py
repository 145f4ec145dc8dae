"""`dataset.json`, which describes prepared data."""

import json
from pathlib import Path
from typing import Any

from detcore.config.stores import Store, is_url
from detcore.data.stores import FileStore

FORMAT_VERSION = 1


def read_description(shards: str | Path, *, store: Store | None = None) -> dict[str, Any]:
    """The `dataset.json` of a folder of shards, or of a URL of one.

    Raises:
        ValueError: there is none, it is of another version, or a store refuses or does not answer.
    """
    description = find_description(shards, store=store)
    if description is None:
        raise ValueError(f"{shards}: no prepared data (dataset.json is missing); run the prepare stage")
    return description


def find_description(shards: str | Path, *, store: Store | None = None) -> dict[str, Any] | None:
    """As `read_description`, but None where there is none."""
    where = f"{shards}/dataset.json"
    try:
        data = FileStore(str(shards), store).read("dataset.json") if is_url(shards) else Path(where).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        description: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error}); prepare the data again") from error
    if description.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{where}: not of format version {FORMAT_VERSION}; prepare the data again")
    return description
