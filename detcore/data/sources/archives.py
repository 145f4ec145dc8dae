"""Archives from strangers: fetched, checked, and unpacked without leaving their folder."""

import gzip
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import unquote, urlsplit

from detcore.config.data import Archives
from detcore.data.progress import Meter
from detcore.data.sources.download import download

# What the standard library raises on archives that are cut off, damaged, encrypted or of an unknown compression.
_BROKEN = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    lzma.LZMAError,
    zlib.error,
    EOFError,
    RuntimeError,
)

MOST_EXPANSION = 200
"""An archive is refused that unpacks to more than this many times its size: annotations in JSON or XML shrink to a
tenth or twentieth, a bomb's zeros to a thousandth."""
LEAST_ROOM_BYTES = 1 << 28
"""What any archive may unpack to."""


def fetch_archives(root: Path, source: Archives, *, progress: bool) -> None:
    """Fetches all archives, unpacks them, and only then puts the folder in place.

    The archives lie in `root`.downloads until then, so an interrupted fetch goes on where it was.

    Raises:
        ValueError: an archive cannot be had, has another hash, or is unsafe.
    """
    downloads = root.with_name(f"{root.name}.downloads")
    unpacked = root.with_name(f"{root.name}.unpacked")
    shutil.rmtree(unpacked, ignore_errors=True)
    for number, archive in enumerate(source.archives):
        path = downloads / f"{number}-{PurePosixPath(unquote(urlsplit(archive.url).path)).name}"
        download(archive.url, path, sha256=archive.sha256, progress=progress)
        try:
            folder = unpacked / safe_path(archive.folder)
            unpack(path, folder, progress=progress)
            for name in archive.inner:
                inner = folder / safe_path(name)
                if not inner.is_file():
                    raise ValueError(f"{path}: holds no {name}")
                unpack(inner, inner.parent, progress=progress)
                inner.unlink()
        except BaseException:
            shutil.rmtree(unpacked, ignore_errors=True)
            raise
    unpacked.rename(root)
    shutil.rmtree(downloads)


def unpack(archive: Path, folder: Path, *, progress: bool = False) -> None:
    """Unpacks a zip or a tar, compressed or not: plain files and folders only, none of them over another.

    Raises:
        ValueError: no such archive, a broken one, one that grows beyond measure (`MOST_EXPANSION`), or a member that is
            absolute, climbs with '..', occurs twice, or is a link or a device.
    """
    folder.mkdir(parents=True, exist_ok=True)
    room = LEAST_ROOM_BYTES + MOST_EXPANSION * archive.stat().st_size
    members = _zip_members if zipfile.is_zipfile(archive) else _tar_members
    try:
        with Meter(f"unpacking {archive.name}", total=None, shown=progress) as meter:
            for name, content in members(archive):
                target = folder / safe_path(name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as file:
                    room -= _copy(content, file, at_most=room)
                meter.advance()
    except FileExistsError as error:
        raise ValueError(f"{archive}: {error.filename} occurs twice") from error
    except NotADirectoryError as error:
        raise ValueError(f"{archive}: {error.filename} is both a file and a folder") from error
    except _BROKEN as error:
        raise ValueError(f"{archive}: cannot be unpacked: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"{archive}: {error}") from error


def _copy(content: IO[bytes], file: IO[bytes], *, at_most: int) -> int:
    """Writes what comes out, whatever size was declared; returns how much that was."""
    written = 0
    while chunk := content.read(1 << 20):
        written += len(chunk)
        if written > at_most:
            raise ValueError(
                f"refused: unpacks to more than {MOST_EXPANSION} times its size, as a bomb does; unpack it by hand if"
                " you trust it, and set data.root to the folder"
            )
        file.write(chunk)
    return written


def safe_path(name: str) -> PurePosixPath:
    """A stranger's file name as a relative path that stays below its folder.

    Raises:
        ValueError: it is empty or absolute, climbs with '..', or holds a backslash, a NUL or a drive letter.
    """
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name or name[1:2] == ":":
        raise ValueError(f"refused: the name {name!r} could lead out of its folder")
    return path


def _zip_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as file:
        for member in file.infolist():
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise ValueError(f"refused: {member.filename!r} is a link or a device")
            if not member.is_dir():
                with file.open(member) as content:
                    yield member.filename, content


def _tar_members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(archive) as file:
        for member in file:
            if not (member.isreg() or member.isdir()):
                raise ValueError(f"refused: {member.name!r} is a link or a device")
            content = file.extractfile(member)
            if content is not None:
                yield member.name, content
