"""Many small files below one base URL, each checked by its SHA-256."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from detcore.config.data import Files
from detcore.data.progress import track
from detcore.data.sources.archives import safe_path
from detcore.data.sources.download import download

_LINE = re.compile(r"([0-9a-fA-F]{64}) [ *](.+)")
_AT_ONCE = 8


def fetch_files(root: Path, source: Files, *, sums: Path, progress: bool) -> None:
    """Fetches every file of the list, several at once, and only then puts the folder in place.

    What has arrived lies in `root`.downloads until then and is not fetched again.

    Args:
        sums: the list, as sha256sum writes it.

    Raises:
        ValueError: the list cannot be read, or a file cannot be had or has another hash.
    """
    downloads = root.with_name(f"{root.name}.downloads")
    files = read_sums(sums)
    base = source.base_url.rstrip("/")

    def fetch(item: tuple[PurePosixPath, str]) -> None:
        path, sha256 = item
        download(f"{base}/{quote(path.as_posix())}", downloads / path, sha256=sha256)

    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for _ in track(pool.map(fetch, files.items()), f"fetching {root.name}", total=len(files), shown=progress):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    downloads.rename(root)


def read_sums(path: Path) -> dict[PurePosixPath, str]:
    """The hashes by relative path, from a list as sha256sum writes it.

    Raises:
        ValueError: no such list, an empty one, a line of another form, or a path that leads out of its folder.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such list of SHA-256 sums")
    sums = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"{path}:{number}: not a SHA-256 and a path: {line[:80]!r}")
        sums[safe_path(match[2])] = match[1].lower()
    if not sums:
        raise ValueError(f"{path}: lists no files")
    return sums
