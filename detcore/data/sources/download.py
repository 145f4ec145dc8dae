"""One file over HTTP: resumed where it was cut off, and checked by its SHA-256."""

import hashlib
import http.client
import time
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from detcore.data.progress import Meter

_CHUNK = 1 << 20
_TIMEOUT_SECONDS = 60.0


class _Interrupted(Exception):
    """The transfer broke off; another try goes on from there."""


def download(
    url: str, path: Path, *, sha256: str, tries: int = 5, pause_seconds: float = 1.0, progress: bool = False
) -> None:
    """Fetches `url` to `path`, which appears only when it is whole and right; unless it is there already.

    What has arrived lies in `path`.part: a later call goes on from there.

    Args:
        url: http or https.
        sha256: of the whole file, in hexadecimal.
        tries: how often a transfer may break off without any progress before this gives up.
        pause_seconds: before the second try; doubled for each one after.
        progress: show it on stderr.

    Raises:
        ValueError: the server refuses, stays out of reach, or sends a file with another hash.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url}: only http and https are fetched")
    if path.is_file() and _sha256(path) == sha256.lower():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    failures = 0
    while True:
        before = _size(part)
        try:
            _transfer(url, part, progress=progress)
            break
        except _Interrupted as error:
            failures = 1 if _size(part) > before else failures + 1
            if failures == tries:
                raise ValueError(f"{url}: {error}; run it again to go on from {_size(part):,} bytes") from error
            time.sleep(pause_seconds * 2 ** (failures - 1))
    found = _sha256(part)
    if found != sha256.lower():
        part.unlink()
        raise ValueError(f"{url}: SHA-256 is {found}, not {sha256}; the file is not what it should be and was deleted")
    part.replace(path)


def _transfer(url: str, part: Path, *, progress: bool) -> None:
    """Appends what is missing of `url` to `part`."""
    start = _size(part)
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
            resumed = response.status == 206
            length = response.headers.get("Content-Length")
            total = None if length is None else int(length) + (start if resumed else 0)
            with part.open("ab" if resumed else "wb") as file, Meter(url, total=total, shown=progress) as meter:
                meter.advance(start if resumed else 0)
                while chunk := response.read(_CHUNK):
                    file.write(chunk)
                    meter.advance(len(chunk))
    except HTTPError as error:
        if error.code == 416:  # nothing lies past what has arrived: whole, or of another file; its hash will tell
            return
        if error.code < 500 and error.code not in (408, 429):
            raise ValueError(f"{url}: {error.code} {error.reason}") from error
        raise _Interrupted(f"{error.code} {error.reason}") from error
    except URLError as error:
        raise _Interrupted(str(error.reason)) from error
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _Interrupted(str(error) or type(error).__name__) from error
    if total is not None and _size(part) < total:
        raise _Interrupted(f"cut off at {_size(part):,} of {total:,} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
