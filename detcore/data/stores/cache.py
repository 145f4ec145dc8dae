"""Copies of a store's files on this machine's disk, by SHA-256, shared by all processes of the machine.

A file appears under its hash when it is whole and right. Until then it grows as HASH.SIZE.part, which the process that
fetches it holds locked; what a killed process left there is gone on with. A reader holds a shared lock on the file that
it reads, so only what nobody uses makes room for others.
"""

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

PART_BYTES = 8 << 20
"""What one request of a fetch asks for: long enough to hide a store's latency, short enough to be asked for again."""
ReadRange = Callable[[int, int], bytes]


class Damaged(ValueError):
    """A store's file is not the one that was written."""


class FileCache:
    """A folder of at most so many bytes. Safe to use from several threads and processes.

    Args:
        folder: made where it does not exist; on a file system with locks.
        max_bytes: of all files together; those in use are never removed, and what does not fit beside them is not kept.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.folder = folder
        self._max_bytes = max_bytes
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "lock").touch()
        except OSError as error:
            raise ValueError(f"the cache {folder} cannot be written ({error.strerror}); set DETCORE_CACHE") from error

    def open(self, sha256: str) -> int | None:
        """A descriptor of a file, which keeps it from being removed until it is closed; None if it is not here."""
        path = self.folder / sha256
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink == 0:  # removed in between
            os.close(descriptor)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of use, by which the oldest is found
        return descriptor

    def fetch(self, sha256: str, size: int, read: ReadRange, *, wait: bool = True) -> int | None:
        """A descriptor of a file, fetched where it is not here.

        Args:
            sha256, size: of the whole file, in bytes.
            read: gives the bytes of [start, end).
            wait: for another process or thread that is fetching the same.

        Returns:
            As `open`; None where the file does not fit, or another fetches it and we do not wait.

        Raises:
            Damaged: the file's size or hash is another, also when fetched once more.
        """
        while True:
            descriptor = self.open(sha256)
            if descriptor is not None:
                return descriptor
            part = self.folder / f"{sha256}.{size}.part"
            held = self._reserve(part, size)
            if held is None:
                return None
            kept = False
            try:
                if not _lock(held, wait=wait):
                    return None
                if _is(part, held):  # else another finished or removed it meanwhile
                    self._complete(held, part, sha256, size, read)
                    fcntl.flock(held, fcntl.LOCK_SH)
                    kept = True
                    return held
            finally:
                if not kept:
                    os.close(held)

    def _complete(self, held: int, part: Path, sha256: str, size: int, read: ReadRange) -> None:
        """Fetches what is missing of a part, checks it and puts it in place."""
        found = ""
        for _ in range(2):
            with os.fdopen(os.dup(held), "r+b") as file:
                digest = hashlib.sha256()
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
                for start in range(file.tell(), size, PART_BYTES):
                    end = min(start + PART_BYTES, size)
                    data = read(start, end)
                    if len(data) < end - start:
                        part.unlink()
                        raise Damaged(f"is cut off at {start + len(data):,} of {size:,} bytes")
                    digest.update(data)
                    file.write(data)
                    file.flush()
            found = digest.hexdigest()
            if found == sha256:
                os.fsync(held)  # or a crash could leave zeros under the name that vouches for them
                with self._counting():  # or who counts what is there could miss both names
                    part.rename(self.folder / sha256)
                return
            os.ftruncate(held, 0)
            os.lseek(held, 0, os.SEEK_SET)
        part.unlink()
        raise Damaged(f"has SHA-256 {found[:12]}…, written was {sha256[:12]}…")

    def _reserve(self, part: Path, size: int) -> int | None:
        """A descriptor of the part: of the one that is there, or of a new one, locked, for which what was used longest
        ago makes room. None where it does not fit."""
        with self._counting():
            with contextlib.suppress(FileNotFoundError):
                return os.open(part, os.O_RDWR | os.O_CLOEXEC)
            files = sorted(self._files(), key=lambda entry: entry[1])
            used = sum(bytes for _, _, bytes in files)
            for path, _, bytes in files:
                if used + size <= self._max_bytes:
                    break
                if _remove_unused(path):
                    used -= bytes
            if used + size > self._max_bytes:
                return None
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            _lock(descriptor, wait=True)
            return descriptor

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """Inside, no file gets another name or is added."""
        descriptor = os.open(self.folder / "lock", os.O_RDWR | os.O_CLOEXEC)
        try:
            _lock(descriptor, wait=True)
            yield
        finally:
            os.close(descriptor)

    def _files(self) -> Iterator[tuple[Path, int, int]]:
        """Path, time of last use in ns and bytes of each; those of a part are what it will have."""
        for path in self.folder.iterdir():
            if path.name == "lock":
                continue
            with contextlib.suppress(FileNotFoundError):  # a part that became whole
                status = path.stat()
                bytes = int(path.name.split(".")[1]) if path.suffix == ".part" else status.st_size
                yield path, status.st_mtime_ns, bytes


def cache_folder() -> Path:
    """Of this machine: DETCORE_CACHE, else ~/.cache/detcore."""
    return Path(os.environ.get("DETCORE_CACHE") or Path.home() / ".cache" / "detcore")


@contextmanager
def staging_folder() -> Iterator[Path]:
    """A folder on the cache's disk for what is on its way to a store; it ends with the context."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="staging-", dir=cache_folder()) as folder:
        yield Path(folder)


def default_cache(cache_gb: float) -> FileCache:
    """The machine's, of shards and their tables."""
    return FileCache(cache_folder() / "shards", max_bytes=round(cache_gb * 1e9))


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Takes a file's lock for this descriptor; False where another has it and we do not wait."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _is(path: Path, descriptor: int) -> bool:
    """Whether the descriptor is of the file that has this name now."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False


def _remove_unused(path: Path) -> bool:
    """Removes a file that nobody reads or writes."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            return True
        finally:
            os.close(descriptor)
    return False
