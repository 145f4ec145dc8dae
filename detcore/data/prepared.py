"""Whether the shards that are there are those that `prepare` would write."""

from pathlib import Path

from detcore.config import DataConfig
from detcore.config.preparing import settings_hash
from detcore.config.stores import is_url
from detcore.data.description import find_description, read_description
from detcore.data.fingerprint import fingerprint, raw_files_record
from detcore.data.stores import FileStore

SETTINGS = "settings.sha256"
"""The file that says of which part of the configuration the shards are; of older shards, its first line."""


def is_prepared(config: DataConfig, *, seed: int) -> bool:
    """Whether `config.shards` holds what `prepare` would write with these settings and raw files.

    Raw files are compared by path, size and time of change, where these shards were made: `record_raw_files` says which
    were read. Where they were pulled, where there are no raw files, and at a URL, the settings alone decide. Taken as
    they are: shards that `write_split` made, and any whose absent root is said to lie within them, where no raw folder
    can be.

    Raises:
        ValueError: at the URL are shards of other settings, which are a team's: only the prepare stage replaces them.
    """
    if is_url(config.shards):
        return _is_prepared_at_url(config, seed=seed)
    shards, root = Path(config.shards), Path(config.root)
    if not (shards / "dataset.json").is_file():
        return False
    written = shards / SETTINGS
    if not written.is_file() or (not root.exists() and shards.absolute() in root.absolute().parents):
        return True
    if written.read_text().partition("\n")[0].strip() != settings_hash(config, seed=seed):
        return False
    read = _recorded_raw_files(shards)
    return read is None or fingerprint(root, without=shards) in (None, read)


def record_raw_files(shards: Path, raw_files: str | None) -> None:
    """Notes beside the shards which raw files they were made from.

    Not among them: times of change are this machine's alone, and the same data has the same shards on all.

    Args:
        raw_files: their `fingerprint`; None where there were none.
    """
    record = raw_files_record(shards)
    if raw_files is None:
        record.unlink(missing_ok=True)
    else:
        record.write_text(f"{read_description(shards)['content_hash']}\n{raw_files}\n")


def _recorded_raw_files(shards: Path) -> str | None:
    """What `record_raw_files` noted; None where these shards were not made here: pulled, checked out, or copied."""
    try:
        content_hash, _, raw_files = raw_files_record(shards).read_text().strip().partition("\n")
    except FileNotFoundError:
        return None
    return raw_files if content_hash == read_description(shards)["content_hash"] else None


def _is_prepared_at_url(config: DataConfig, *, seed: int) -> bool:
    store = FileStore(config.shards, config.store)
    if find_description(config.shards, store=config.store) is None:
        return False
    try:
        settings = store.read(SETTINGS).decode().partition("\n")[0].strip()
    except FileNotFoundError:
        return True
    if config.root.startswith(f"{config.shards}/") or settings == settings_hash(config, seed=seed):
        return True
    raise ValueError(
        f"{config.shards} was prepared with other data.* settings or seed than these, and training replaces no shards"
        " at a URL; run the prepare stage to replace them, or set data.shards to another place"
    )
