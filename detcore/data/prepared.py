"""Whether the shards that are there are those that `prepare` would write."""

import hashlib
import json
from pathlib import Path

from detcore.config import DataConfig
from detcore.config.stores import is_url
from detcore.data.fingerprint import fingerprint
from detcore.data.shards import find_description
from detcore.data.stores import FileStore

SETTINGS = "settings.sha256"
"""The file that says of which part of the configuration (its first line) and raw files (its second) the shards are."""
_LOADING = {
    *("shards", "store", "on_bad_sample", "threads", "prefetch_bytes", "decode"),
    *("sampling", "train_subset", "min_objects", "min_keypoints", "num_buckets", "size_divisor"),
    *("train_transforms", "test_transforms", "unmixed_last_steps", "min_visible"),
}
"""What of the configuration decides how shards are read."""


def is_prepared(config: DataConfig, *, seed: int) -> bool:
    """Whether `config.shards` holds what `prepare` would write with these settings and raw files.

    Files are compared by path, size and time of change. Where there are none (shards that were pulled) the settings
    decide. Taken as they are: shards that `write_split` made, and any whose absent root is said to lie within them,
    where no raw folder can be. At a URL the settings alone decide: the raw files of another machine have other times.

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
    settings, _, raw_files = written.read_text().strip().partition("\n")
    return settings == settings_hash(config, seed=seed) and fingerprint(root, without=shards) in (None, raw_files)


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


def settings_hash(config: DataConfig, *, seed: int) -> str:
    """SHA-256 of the part of the configuration that decides what is in the shards."""
    # What came in later and says nothing is left out: shards that were written before stay those of their settings.
    later = {"angles", "ignore", "semantic", "absent_images", "max_image_pixels"}
    unset = {key for key in later if getattr(config, key) == DataConfig.model_fields[key].default}
    values = config.model_dump(mode="json", exclude=_LOADING | unset)
    for split in (values["splits"] or {}).values():
        if split["instances"] is None:
            del split["instances"]
    return hashlib.sha256(json.dumps([values, seed], sort_keys=True).encode()).hexdigest()
