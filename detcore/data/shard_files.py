"""The files of one split of prepared data, from a folder or from a store.

From a store, the tables are fetched to this machine's disk before anything is read. Shards are fetched in the
background, whole, and a sample whose shard is not here yet is read by itself, by its range: training begins at once,
and from the second epoch on reads the disk. (Whole shards alone would make the first shuffled batch wait for all of
them, ranges alone pay the store's latency and requests again in every epoch: `tests/perf/stores.py` measures them.)
"""

import os
import sys
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from detcore.config.stores import Store, is_url
from detcore.data.stores import FileCache, FileStore, StoreError, default_cache
from detcore.data.stores.cache import Damaged

_FETCHED_AT_ONCE = 4
"""Shards in the background; each is a stream of requests, one after the other."""


class ShardFiles(Protocol):
    """Where the bytes of a split are. Safe to use from several threads."""

    @property
    def num_shards(self) -> int:
        """Those of the split."""

    def table(self, name: str) -> Path:
        """A table of the split, on this machine's disk."""

    def where(self, shard: int) -> str:
        """Path or URL of a shard, for messages."""

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Bytes of a shard: fewer where it is cut off."""

    def descriptor(self, shard: int) -> int | None:
        """An open file with the shard's bytes, until this is closed; None where there is none on this machine."""

    def prefetch(self) -> None:
        """Begins to bring the shards to this machine's disk; twice is harmless."""

    def close(self) -> None:
        """Ends what was begun and closes the shards; a later read opens them again."""


def open_files(shards: str | Path, split: str, entry: Mapping[str, Any], settings: Store | None) -> ShardFiles:
    """The files of a split, by its entry in `dataset.json`.

    Raises:
        ValueError: a shard in a folder is missing or of another size than written, or a store cannot be used.
    """
    if not is_url(shards):
        return LocalFiles(Path(shards) / split, entry)
    settings = settings or Store()
    store = FileStore(f"{shards}/{split}", settings)
    return StoredFiles(store, entry, cache=default_cache(settings.cache_gb))


class LocalFiles:
    """A split in a folder."""

    def __init__(self, folder: Path, entry: Mapping[str, Any]) -> None:
        self._folder = folder
        self._shards = [folder / shard["name"] for shard in entry["shards"]]
        self._descriptors: dict[int, int] = {}
        for path, shard in zip(self._shards, entry["shards"], strict=True):
            size = path.stat().st_size if path.is_file() else None
            if size != shard["bytes"]:
                raise ValueError(f"{path}: {size or 'no'} bytes, {shard['bytes']} were written; prepare the data again")

    @property
    def num_shards(self) -> int:
        return len(self._shards)

    def table(self, name: str) -> Path:
        return self._folder / name

    def where(self, shard: int) -> str:
        return str(self._shards[shard])

    def read(self, shard: int, offset: int, size: int) -> bytes:
        return os.pread(self.descriptor(shard), size, offset)

    def descriptor(self, shard: int) -> int:
        found = self._descriptors.get(shard)
        if found is None:
            opened = os.open(self._shards[shard], os.O_RDONLY | os.O_CLOEXEC)
            found = _keep(self._descriptors, shard, opened)
        return found

    def prefetch(self) -> None:
        pass

    def close(self) -> None:
        _close_all(self._descriptors)


class StoredFiles:
    """A split in a store.

    Args:
        store: of the split's folder.
        entry: of the split in `dataset.json`.
        cache: this machine's copies.

    Raises:
        ValueError: the entry does not have the tables' hashes, as those written by an earlier version.
    """

    def __init__(self, store: FileStore, entry: Mapping[str, Any], *, cache: FileCache) -> None:
        if "tables" not in entry:
            raise ValueError(
                f"{store.url}: written by an earlier version, without the tables' hashes; prepare it again"
            )
        self._store = store
        self._shards: list[dict[str, Any]] = entry["shards"]
        self._tables: dict[str, dict[str, Any]] = {table["name"]: table for table in entry["tables"]}
        self._cache = cache
        self._held: dict[str, int] = {}
        self._descriptors: dict[int, int] = {}
        self._waiting: deque[int] = deque()
        self._threads: list[threading.Thread] = []
        self._closed = threading.Event()

    @property
    def num_shards(self) -> int:
        return len(self._shards)

    def table(self, name: str) -> Path:
        """Fetched where it is not here; stays as long as this is open.

        Raises:
            ValueError: it is missing or damaged, does not fit the cache, or the store does not answer.
        """
        sha256: str = self._tables[name]["sha256"]
        if name not in self._held:
            try:
                found = self._fetch(self._tables[name])
            except Damaged as error:
                raise ValueError(f"{self._store.address(name)} {error}; prepare the data again") from error
            if found is None:
                raise ValueError(
                    f"{self._store.address(name)}: the cache {self._cache.folder} has no room for it beside what is in "
                    "use; raise data.store.cache_gb, or set DETCORE_CACHE to a larger disk"
                )
            _keep(self._held, name, found)
        return self._cache.folder / sha256

    def where(self, shard: int) -> str:
        return self._store.address(self._shards[shard]["name"])

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """From the shard's copy, or from the store where there is none yet.

        Raises:
            StoreError: the store does not answer, or the shard is missing.
        """
        descriptor = self.descriptor(shard)
        if descriptor is None:
            return self._read_range(self._shards[shard]["name"], offset, offset + size)
        return os.pread(descriptor, size, offset)

    def descriptor(self, shard: int) -> int | None:
        found = self._descriptors.get(shard)
        if found is None and (opened := self._cache.open(self._shards[shard]["sha256"])) is not None:
            found = _keep(self._descriptors, shard, opened)
        return found

    def prefetch(self) -> None:
        if self._threads:
            return
        self._closed = threading.Event()
        # Each process begins elsewhere, so that those of one machine share the work: what one fetches, all have.
        number, first = len(self._shards), int.from_bytes(os.urandom(4), "little")
        self._waiting.extend((first + index) % number for index in range(number))
        # Daemons: the end of a program does not wait for shards that nobody is going to read.
        self._threads = [
            threading.Thread(target=self._fetch_waiting, args=(self._closed,), name="detcore-shards", daemon=True)
            for _ in range(min(_FETCHED_AT_ONCE, number))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._closed.set()
        self._waiting.clear()
        for thread in self._threads:
            thread.join(timeout=1.0)  # a request under way may take longer; it ends by itself
        self._threads = []
        _close_all(self._held)
        _close_all(self._descriptors)

    def _fetch_waiting(self, closed: threading.Event) -> None:
        """Until all shards are here, none fits, or this is closed. What goes wrong is the readers' to raise."""
        while True:
            try:
                shard = self._waiting.popleft()
            except IndexError:
                return
            try:
                descriptor = self._fetch(self._shards[shard], closed)
            except _Closed:
                return
            except Damaged as error:
                print(f"{self.where(shard)} {error}; its samples are read one by one", file=sys.stderr, flush=True)
                continue
            except StoreError:
                continue
            except OSError as error:
                print(f"shards are no longer kept in {self._cache.folder}: {error}", file=sys.stderr, flush=True)
                return
            if descriptor is not None and not closed.is_set():
                _keep(self._descriptors, shard, descriptor)
            elif descriptor is not None:
                os.close(descriptor)

    def _fetch(self, file: Mapping[str, Any], closed: threading.Event | None = None) -> int | None:
        """A descriptor of a file's copy; with `closed`, gives up once that is set, and does not wait for others."""

        def read(start: int, end: int) -> bytes:
            if closed is not None and closed.is_set():
                raise _Closed
            return self._read_range(file["name"], start, end)

        return self._cache.fetch(file["sha256"], file["bytes"], read, wait=closed is None)

    def _read_range(self, name: str, start: int, end: int) -> bytes:
        try:
            data = self._store.read(name, start, end)
            if len(data) == end - start:
                return data
            # A server without lengths cannot tell a cut connection from the end: once more tells.
            return self._store.read(name, start, end)
        except FileNotFoundError as error:
            raise StoreError(f"{self._store.address(name)}: there is no such file; prepare the data again") from error


class _Closed(Exception):
    """Nobody waits for the fetch any more."""


def _keep(descriptors: Any, key: Any, opened: int) -> int:
    """The descriptor that stands for a key: `opened`, unless another thread was quicker."""
    found: int = descriptors.setdefault(key, opened)
    if found != opened:
        os.close(opened)
    return found


def _close_all(descriptors: dict[Any, int]) -> None:
    while descriptors:
        os.close(descriptors.popitem()[1])
