"""Finished folders of shards, put to a store."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from detcore.config.stores import Store
from detcore.data.progress import Meter
from detcore.data.stores import FileStore

_AT_ONCE = 8
_DOOR = "dataset.json"


class Publisher:
    """Puts a folder of shards to a URL, in place of what was there. Made before the work, so as to fail before it.

    Raises:
        ValueError: the URL cannot be written, or the store refuses or does not answer.
    """

    def __init__(self, url: str, settings: Store) -> None:
        self._store = FileStore(url, settings)
        self._store.refuse_unwritable()
        try:
            self._before = _files(json.loads(self._store.read(_DOOR)))
        except FileNotFoundError:
            self._before = set()

    def publish(self, folder: Path, *, progress: bool) -> None:
        """Several files at once. `dataset.json` goes first and comes last, so no reader finds a half of two.

        Files of which it speaks and that are not in the folder stay as they are: splits written before.

        Raises:
            StoreError: a file could not be put there; there is no `dataset.json` then.
        """
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        names = {path.relative_to(folder).as_posix(): path for path in paths}
        door = names.pop(_DOOR)
        described = _files(json.loads(door.read_bytes()))
        self._store.remove(_DOOR)
        total = sum(path.stat().st_size for path in names.values())
        with Meter(f"writing {self._store.url}, bytes", total=total, shown=progress) as meter:

            def put(name: str) -> None:
                self._store.write(names[name], name)
                meter.advance(names[name].stat().st_size)

            pool = ThreadPoolExecutor(_AT_ONCE)
            try:
                list(pool.map(put, names))
            finally:
                pool.shutdown(cancel_futures=True)
        self._store.write(door, _DOOR)
        for name in sorted(self._before - described):  # of larger data that lay there before
            self._store.remove(name)


def _files(description: Mapping[str, Any]) -> set[str]:
    """The files that a `dataset.json` speaks of."""
    return {
        f"{split}/{file['name']}"
        for split, entry in description["splits"].items()
        for file in (*entry["shards"], *entry.get("tables", ()))
    }
