"""Whether the files of a raw folder are still those that were read, without reading them again."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path


def fingerprint(root: Path, *, without: Path) -> str | None:
    """SHA-256 of path, size and time of change of every file below a folder; None where there is no file.

    Args:
        root: the folder; links below it are followed.
        without: a folder to pass over, should it lie below the root: the shards, and what stands beside them.
    """
    if not root.is_dir():
        return None
    shards = without.resolve()
    passed_over = {shards.with_name(f"{shards.name}{end}") for end in ("", ".tmp", ".old")}
    passed_over.add(raw_files_record(without.parent.resolve() / without.name))
    digest = hashlib.sha256()
    empty = True
    for entry in _files(root.resolve(), passed_over=passed_over, seen=set()):
        digest.update(json.dumps(entry).encode())
        empty = False
    return None if empty else digest.hexdigest()


def raw_files_record(shards: Path) -> Path:
    """The file beside the shards that says which raw files they were made from, on this machine."""
    return shards.with_name(f"{shards.name}.raw_files")


def _files(
    folder: Path, *, passed_over: set[Path], seen: set[tuple[int, int]], above: str = ""
) -> Iterator[tuple[str, int, int]]:
    """Path below the root, size in bytes and time in ns of each file, in the order of the names."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in seen or folder in passed_over:
        return
    seen.add(identity)  # links can lead in circles
    with os.scandir(folder) as found:
        entries = sorted(found, key=lambda entry: entry.name)
    for entry in entries:
        name = f"{above}{entry.name}"
        if entry.is_dir():
            yield from _files(folder / entry.name, passed_over=passed_over, seen=seen, above=f"{name}/")
        elif entry.is_file() and folder / entry.name not in passed_over:
            status = entry.stat()
            yield name, status.st_size, status.st_mtime_ns
