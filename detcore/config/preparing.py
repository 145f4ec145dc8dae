"""What of the configuration decides what is in the shards."""

import hashlib
import json

from detcore.config.data import DataConfig, Digits

_LOADING = {
    *("shards", "store", "on_bad_sample", "threads", "prefetch_bytes", "decode"),
    *("sampling", "train_subset", "min_objects", "min_keypoints", "num_buckets", "size_divisor"),
    *("train_transforms", "test_transforms", "unmixed_last_steps", "min_visible"),
}
"""What of the section decides how shards are read."""


def settings_hash(config: DataConfig, *, seed: int) -> str:
    """SHA-256 of the part of the configuration that decides what is in the shards."""
    # What came in later and says nothing is left out: shards that were written before stay those of their settings.
    later = {"angles", "ignore", "semantic", "absent_images", "max_image_pixels"}
    unset = {key for key in later if getattr(config, key) == DataConfig.model_fields[key].default}
    values = config.model_dump(mode="json", exclude=_LOADING | unset)
    for split in (values["splits"] or {}).values():
        if split["instances"] is None:
            del split["instances"]
    dealt = seed if _may_deal(config) else 0
    return hashlib.sha256(json.dumps([values, dealt], sort_keys=True).encode()).hexdigest()


def _may_deal(config: DataConfig) -> bool:
    """Whether val or test may have to be drawn from train, which the seed decides. A raw folder is not looked into."""
    if isinstance(config.source, Digits):  # which makes all three
        return False
    missing = {"val", "test"} - set(config.splits or ())
    return any(getattr(config, f"{split}_fraction") > 0 for split in missing)
