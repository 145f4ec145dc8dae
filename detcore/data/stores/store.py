"""A folder of files at an object store or web server, through fsspec."""

import contextlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec
from fsspec.asyn import sync

from detcore.config.stores import Store
from detcore.data.stores.retrying import may_pass, of_a_store, reason, status_of, with_retries

T = TypeVar("T")
_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
_CONNECTIONS = 32
_CLIENTS_VARIABLES = ("AWS_", "GOOGLE_", "GCSFS_", "STORAGE_EMULATOR", "FSSPEC_")


class StoreError(ValueError):
    """A store that did not answer, or refused. The message names the file, what was said, and how to mend it."""


class FileStore:
    """Reads and writes the files below a URL. Safe to use from several threads.

    Time-outs, 5xx and cut connections are tried again, with pauses that double and are jittered. Credentials are the
    clients' own business: they come from the environment and standard files.

    Args:
        url: s3://bucket/folder, gs://bucket/folder, http://host/folder or https://host/folder.
        settings: time-out and tries.
        pause_seconds: before the second try.

    Raises:
        ValueError: the package for such URLs is not installed.
    """

    def __init__(self, url: str, settings: Store | None = None, *, pause_seconds: float = 0.5) -> None:
        self.url = url.rstrip("/")
        self._settings = settings or Store()
        self._pause_seconds = pause_seconds
        self._scheme = urlsplit(url).scheme
        try:
            environment = frozenset(item for item in os.environ.items() if item[0].startswith(_CLIENTS_VARIABLES))
            self._files = _file_system(self._scheme, self._settings.timeout_seconds, environment, os.getpid())
        except ImportError as error:
            package = _PACKAGES[self._scheme]
            raise ValueError(f"{url}: {self._scheme}:// needs the package {package}; pip install {package}") from error

    def address(self, name: str) -> str:
        """The URL of a file."""
        return f"{self.url}/{name}"

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """The bytes of a file, all or those of [start, end): fewer where the file ends before `end`.

        Raises:
            FileNotFoundError: there is no such file.
            StoreError: the store refuses, stays out of reach, or does not do ranges.
        """

        def request() -> bytes:
            found: bytes = self._wait(self._files._cat_file, name, start=start, end=end)
            return found

        try:
            data = self._ask(request, name)
        except StoreError as error:
            if error.__cause__ is not None and start is not None and _past_the_end(error.__cause__):
                return b""
            raise
        if end is not None and len(data) > end - (start or 0):
            raise StoreError(
                f"{self.address(name)}: the server answers a range with the whole file; serve the shards by one that "
                "knows ranges, such as nginx, caddy or an object store"
            )
        return data

    def names(self) -> list[str]:
        """All files below the URL, by name and sorted; none where there is no such folder.

        Raises:
            StoreError: the store refuses or stays out of reach.
        """
        folder = self.url.partition("://")[2]

        def request() -> list[str]:
            found: list[str] = sync(self._files.loop, self._files._find, self.url)
            return sorted(path.partition(f"{folder}/")[2] for path in found)

        return self._ask(request, "")

    def write(self, path: Path, name: str) -> None:
        """Puts a local file there, in place of what was.

        Raises:
            StoreError: the store cannot be written, or what arrived is not as long.
        """
        self.refuse_unwritable()

        def request() -> None:
            sync(self._files.loop, self._files._put_file, str(path), self.address(name))

        try:
            self._ask(request, name)
        except FileNotFoundError as error:
            raise StoreError(f"{error}; make the bucket, or name another") from error
        arrived = self._ask(lambda: self._wait(self._files._info, name), name)["size"]
        if arrived != path.stat().st_size:
            raise StoreError(
                f"{self.address(name)}: {arrived:,} of {path.stat().st_size:,} bytes arrived; write it again"
            )

    def refuse_unwritable(self) -> None:
        """Raises ValueError where the scheme is one to read from alone."""
        if self._scheme in ("http", "https"):
            raise ValueError(f"{self.url}: shards cannot be written over {self._scheme}; write to a folder, s3 or gs")

    def remove(self, name: str) -> None:
        """Removes a file, if it is there.

        Raises:
            StoreError: the store refuses or stays out of reach.
        """
        with contextlib.suppress(FileNotFoundError):
            self._ask(lambda: self._wait(self._files._rm_file, name), name)

    def _wait(self, coroutine: Callable[..., Any], name: str, **arguments: Any) -> Any:
        """One request, cancelled when its time is up."""
        return sync(
            self._files.loop, coroutine, self.address(name), timeout=self._settings.timeout_seconds, **arguments
        )

    def _ask(self, request: Callable[[], T], name: str) -> T:
        tries = self._settings.tries
        try:
            return with_retries(request, tries=tries, pause_seconds=self._pause_seconds)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.address(name)}: {reason(error)}") from error
        except Exception as error:
            if not of_a_store(error):
                raise
            advice = "is the store up, is data.store.timeout_seconds long enough?"
            if isinstance(error, PermissionError) or status_of(error) in (401, 403):
                advice = "are the credentials in the environment those of a user who may? (docs/data_stores.md)"
            elif "Credentials" in type(error).__name__:
                advice = "set them in the environment or the store's own files (docs/data_stores.md)"
            tried = f" (tried {tries} times)" if tries > 1 and may_pass(error) else ""
            raise StoreError(f"{self.address(name)}: {reason(error)}{tried}; {advice}") from error


@cache
def _file_system(scheme: str, timeout_seconds: float, environment: frozenset[tuple[str, str]], process: int) -> Any:
    """fsspec's, without retries of its own, which would multiply with ours.

    Making one takes a while, so it is kept: for this process, and for these credentials and endpoints, unlike fsspec's
    own instances, which stay with those that the first was made with.
    """
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        # A request's time is bounded by us; these bound what cannot be cancelled, a connection that never comes up.
        options["config_kwargs"] = {
            "connect_timeout": timeout_seconds,
            "read_timeout": timeout_seconds,
            "retries": {"max_attempts": 0},
            "max_pool_connections": _CONNECTIONS,
        }
    elif scheme in ("http", "https"):
        options["client_kwargs"] = {"trust_env": True}  # proxies and ~/.netrc
    files = fsspec.filesystem(scheme, **options)
    if scheme == "s3":
        files.retries = 1
    return files


def _past_the_end(error: BaseException) -> bool:
    return status_of(error) == 416 or "InvalidRange" in str(error) or "not satisfiable" in str(error)
