"""A split to look into: the prepared one, or else a few of its raw images, prepared aside."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detcore.config import Config, DataConfig
from detcore.data.formats import RawDataset, RawSplit, read_raw
from detcore.data.formats.raw import listing
from detcore.data.prepare import write_raw
from detcore.data.prepared import is_prepared
from detcore.data.raw_checks import without_absent_images
from detcore.data.sampler import Purpose, keyed_generator
from detcore.data.shards import ShardedSplit
from detcore.data.splitting import with_missing_splits

_MOST_CORRUPT = 0.99
"""Of a few images, so many may be unreadable: the others are still worth a look."""


def read_splits(config: Config) -> RawDataset:
    """The raw data, with the splits that prepare would draw; nothing is fetched.

    Raises:
        ValueError: there is no raw folder, or something is wrong in it.
    """
    raw = read_raw(config.data, raw_folder(config.data))
    if config.data.absent_images == "skip":
        raw, _ = without_absent_images(raw, skip=True)
    return with_missing_splits(raw, config.data, seed=config.seed)


def raw_folder(config: DataConfig) -> Path:
    """Where the raw data are; ValueError where they are not."""
    root = Path(config.root)
    if not root.is_dir():
        if root.parent == Path(config.shards) and root.parent.is_dir():
            raise ValueError(f"{root.parent} holds prepared shards; name the folder of the raw data")
        how = "detcore prepare fetches it" if config.source else "set data.root to the raw folder"
        raise ValueError(f"{root}: the raw data of {config.name} are not there; {how}")
    return root


@contextmanager
def some_samples(
    config: Config, split: str, *, num: int, classes: Sequence[str] = ()
) -> Iterator[tuple[ShardedSplit, bool]]:
    """The whole split where it is prepared, else at least `num` of its images if it has so many.

    Args:
        num: of the images, drawn by the configuration's seed.
        classes: only images with an object of one of these.

    Yields:
        The split, and whether it is the whole one. What is there for a few images is gone afterwards.

    Raises:
        ValueError: no such split, or what `read_splits` and `prepare` refuse.
    """
    if is_prepared(config.data, seed=config.seed):
        yield ShardedSplit.open(config.data.shards, split, store=config.data.store), True
        return
    raw = read_splits(config)
    if split not in raw.splits:
        raise ValueError(f"{config.data.root}: no split {split!r}, only {listing(sorted(raw.splits))}")
    taken = raw.splits[split].take(_some_rows(raw, raw.splits[split], config.seed, num, classes))
    raw, _ = without_absent_images(replace(raw, splits={split: taken}), skip=False)
    with tempfile.TemporaryDirectory(prefix="detcore-") as folder:
        shards = Path(folder) / "shards"
        forgiving = config.data.model_copy(update={"max_corrupt_fraction": _MOST_CORRUPT})
        write_raw(raw, forgiving, shards, without_objects=True, progress=False)
        yield ShardedSplit.open(shards, split), False


def _some_rows(raw: RawDataset, split: RawSplit, seed: int, num: int, classes: Sequence[str]) -> NDArray[np.int64]:
    order = keyed_generator(seed, 0, Purpose.ORDER).permutation(split.images.num_rows)
    if classes:
        refuse_unknown_classes(classes, (*raw.categories, *raw.semantic_classes))
        of_maps = sorted(set(classes) & set(raw.semantic_classes) - set(raw.categories))
        if of_maps:
            raise ValueError(f"{listing(of_maps)}: maps are searched for classes only in prepared data; prepare it")
        labels = [label for label, name in enumerate(raw.categories) if name in classes]
        named = np.isin(split.objects["label"].to_numpy(), labels)
        order = order[np.isin(order, split.objects["sample"].to_numpy()[named])]
        if not len(order):
            raise ValueError(f"{split.source}: no image has an object of {listing(list(classes))}")
    rows: NDArray[np.int64] = np.sort(order[:num])
    return rows


def refuse_unknown_classes(names: Sequence[str], known: Sequence[str]) -> None:
    """Raises ValueError for a name that is none of the known ones, with those that look like it."""
    for name in names:
        if name not in known:
            near = get_close_matches(name, known)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the classes are {listing(known)}"
            raise ValueError(f"no class is called {name!r}; {hint}")
