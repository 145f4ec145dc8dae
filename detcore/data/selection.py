"""Which images of a split training takes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detcore.config import DataConfig
from detcore.config.sampling import FirstSubset, FractionSubset, ListedSubset, Subset
from detcore.data.shards import ShardedSplit


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Samples that take part.

    Attributes:
        samples: (n,) int64, rising indices into the split.
        left_out: how many do not, by reason.
    """

    samples: NDArray[np.int64]
    left_out: dict[str, int]

    def __str__(self) -> str:
        left_out = "".join(f", {number:,} left out {reason}" for reason, number in self.left_out.items())
        return f"{len(self.samples):,} images{left_out}"


def select(split: ShardedSplit, config: DataConfig) -> Selection:
    """The images of a split that training takes: those with enough objects and keypoints, and of them the subset.

    Raises:
        ValueError: none is left, keypoints are asked for where the data has none, or a list that names unknown images.
    """
    samples, left_out = np.arange(len(split)), {}
    for key, count in (("min_objects", _count_objects), ("min_keypoints", _count_keypoints)):
        if least := getattr(config, key):
            enough = count(split)[samples] >= least
            left_out[f"by {key} = {least}"] = int((~enough).sum())
            samples = samples[enough]
    if config.train_subset is not None:
        part = _subset(split, samples, config.train_subset)
        left_out[f"by train_subset ({config.train_subset.type})"] = len(samples) - len(part)
        samples = part
    selection = Selection(samples=samples, left_out=left_out)
    if not len(samples):
        raise ValueError(f"{split.name}: no image of {split.split} is left to train on: {selection}")
    return selection


def _count_objects(split: ShardedSplit) -> NDArray[np.int64]:
    return _sums(~split.annotations.crowd, split)


def _count_keypoints(split: ShardedSplit) -> NDArray[np.int64]:
    if split.keypoints is None:
        raise ValueError(f"data.min_keypoints: {split.name} has no keypoints; set it to 0")
    annotations = split.annotations
    return _sums(np.where(annotations.crowd, 0, annotations.labelled_keypoints()), split)


def _sums(of_objects: NDArray[np.int64] | NDArray[np.bool_], split: ShardedSplit) -> NDArray[np.int64]:
    """Sums over the objects of each sample."""
    before: NDArray[np.int64] = np.concatenate([[0], np.cumsum(of_objects)])
    return np.diff(before[split.annotations.starts])


def _subset(split: ShardedSplit, samples: NDArray[np.int64], subset: Subset) -> NDArray[np.int64]:
    match subset:
        case FirstSubset():
            return samples[: subset.number]
        case FractionSubset():
            order = np.random.Generator(np.random.Philox(key=subset.seed)).permutation(len(samples))
            return np.sort(samples[order[: max(1, round(subset.fraction * len(samples)))]])
        case ListedSubset():
            return np.intersect1d(samples, _listed(split, Path(subset.file)))


def _listed(split: ShardedSplit, path: Path) -> NDArray[np.int64]:
    """The samples that a text file names."""
    if not path.is_file():
        raise ValueError(f"data.train_subset.file: {path} is no file")
    places = {str(image_id): row for row, image_id in enumerate(split.image_ids.tolist())}
    places |= {name: row for row, name in enumerate(split.file_names)}
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if name := line.strip():
            if name not in places:
                raise ValueError(f"{path}: line {number}: {split.split} has no image of the name or id {name!r}")
            found.append(places[name])
    return np.array(found, np.int64)
