"""Files and folders that are there whole or not at all, whatever happens while they are written."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

Contents = bytes | Callable[[BinaryIO], None]
"""Of a file: its bytes, or what writes them to it."""


class HashingFile:
    """Passes what is written on to a file, and takes its SHA-256; of a file's methods it has what `torch.save` uses.

    A context manager: at its end an error of the file's is raised as it was, where the writer made another of it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._error: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._error is not None:
            raise self._error

    def write(self, data: bytes | memoryview, /) -> int:
        self._digest.update(data)
        try:
            return self._file.write(data)
        except OSError as error:
            self._error = error
            raise

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def write_file(path: Path, data: bytes) -> None:
    """Replaces `path` by `data` in one step.

    Raises:
        OSError: as writing does; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _write_through(temporary, data)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_folder(path: Path, files: Iterable[tuple[str, Contents]]) -> None:
    """Replaces the folder `path` by one of exactly these files; they are asked for, written and let go one by one.

    Raises:
        OSError: as writing does; what was there before is untouched, and nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    replaced = path.with_name(f".{path.name}.old")
    for leftover in (temporary, replaced):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, contents in files:
            _write_through(temporary / name, contents)
        _sync_folder(temporary)
        if path.exists():
            path.rename(replaced)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(replaced, ignore_errors=True)


def append(path: Path, data: bytes) -> None:
    """Adds `data` at the end of a file.

    Raises:
        OSError: as writing does, with the file's name.
    """
    try:
        with path.open("ab") as file:
            file.write(data)
    except OSError as error:
        raise _named(error, path) from error


def _write_through(path: Path, contents: Contents) -> None:
    try:
        with path.open("wb") as file:
            if isinstance(contents, bytes):
                file.write(contents)
            else:
                contents(file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno is None:  # not of this file, and with words of its own
            raise
        raise _named(error, path) from error


def _named(error: OSError, path: Path) -> OSError:
    """What `write` raises says why, not where."""
    return OSError(error.errno, error.strerror, str(path))


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
