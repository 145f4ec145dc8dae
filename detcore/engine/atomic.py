"""Files and folders that are there whole or not at all, whatever happens while they are written."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path


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


def write_folder(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
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
        for name, data in files:
            _write_through(temporary / name, data)
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


def _write_through(path: Path, data: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
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
