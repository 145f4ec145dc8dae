"""Which samples an epoch has, and how often."""

import csv
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from detcore.config import DataConfig
from detcore.config.sampling import ClassWeightSampling, ImageWeightSampling, RepeatFactorSampling, Sampling
from detcore.data.sampler import Sampler
from detcore.data.selection import Selection, select
from detcore.data.shards import ShardedSplit


def build_sampler(
    split: ShardedSplit, config: DataConfig, *, train: bool, batch_size: int, seed: int, size_divisor: int
) -> tuple[Selection, Sampler]:
    """The samples that take part, and who orders them.

    Args:
        split: prepared data.
        config: which samples, how often, of which sizes.
        train: False takes all of them, once, in order.
        batch_size: rows of a batch over all ranks.
        seed: of order and sizes.
        size_divisor: of the model; that of `config` counts besides.

    Raises:
        ValueError: no sample takes part, or a part of `config` does not fit the data.
    """
    every = Selection(samples=np.arange(len(split)), left_out={})
    selection = select(split, config) if train else every
    sampler = Sampler(
        heights=split.heights,
        widths=split.widths,
        transforms=config.train_transforms if train else config.test_transforms,
        batch_size=batch_size,
        num_buckets=config.num_buckets,
        size_divisor=math.lcm(config.size_divisor, size_divisor),
        seed=seed,
        shuffle=train,
        samples=selection.samples,
        factors=sampling_factors(split, config.sampling, selection.samples) if train else None,
    )
    return selection, sampler


def sampling_factors(split: ShardedSplit, sampling: Sampling, samples: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """How often an epoch has each of some samples, as (n,); None means once. Crowd regions do not count.

    Args:
        split: prepared data.
        sampling: how.
        samples: (n,) rising indices into the split: those that take part.

    Raises:
        ValueError: a class or a file that is not there, an image without a weight, or no weight above 0.
    """
    match sampling:
        case RepeatFactorSampling():
            place, labels = _labels(split, samples)
            return repeat_factors(place, labels, num_samples=len(samples), threshold=sampling.threshold)
        case ClassWeightSampling():
            if unknown := sorted(sampling.weights.keys() - set(split.categories)):
                known = ", ".join(split.categories)
                raise ValueError(f"data.sampling.weights: {split.name} has no class {unknown[0]!r}, only {known}")
            place, labels = _labels(split, samples)
            of_class = np.array([sampling.weights.get(name, 1.0) for name in split.categories])
            weights = np.full(len(samples), -1.0)
            np.maximum.at(weights, place, of_class[labels])
            return _proportional(np.where(weights < 0, 1.0, weights), where="data.sampling.weights")
        case ImageWeightSampling():
            return _proportional(_read_weights(Path(sampling.file), split)[samples], where=sampling.file)
        case _:
            return None


def _labels(split: ShardedSplit, samples: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Of each object of the samples its sample, as the place among them, and its class."""
    annotations = split.annotations
    place = np.full(len(split), -1)
    place[samples] = np.arange(len(samples))
    owners = np.repeat(place, np.diff(annotations.starts))
    counted = ~annotations.crowd & (owners >= 0)
    return owners[counted], annotations.labels[counted]


def repeat_factors(
    samples: NDArray[np.int64], labels: NDArray[np.int32], *, num_samples: int, threshold: float
) -> NDArray[np.float64]:
    """How often an epoch should have each image, so that rare classes are seen more often (arXiv:1908.03195, B.2).

    With f(c) the share of the images that have class c, r(c) = max(1, sqrt(threshold / f(c))), and an image has the
    largest r(c) of its classes; 1 without any.

    Args:
        samples: (n,) the image of each object.
        labels: (n,) its class.
        num_samples: images.
        threshold: the share below which a class is rare.
    """
    num_classes = int(labels.max(initial=0)) + 1
    # As single numbers: numpy takes seconds to find the distinct rows among a million.
    image, label = np.divmod(np.unique(samples.astype(np.int64) * num_classes + labels), num_classes)
    share = np.bincount(label) / num_samples
    of_class = np.maximum(1.0, np.sqrt(threshold / np.where(share > 0, share, 1.0)))
    factors = np.ones(num_samples)
    np.maximum.at(factors, image, of_class[label])
    return factors


def _proportional(weights: NDArray[np.float64], *, where: str) -> NDArray[np.float64]:
    """Weights as factors whose mean is 1."""
    # Exactly rounded: every rank must come to the same, whatever its processor.
    total = math.fsum(weights)
    if total == 0.0:
        raise ValueError(f"{where}: all images have the weight 0, so there is nothing to train on")
    return weights * (len(weights) / total)


def _read_weights(path: Path, split: ShardedSplit) -> NDArray[np.float64]:
    """The weights of a split's images, from a CSV file with the columns file_name and weight."""
    if not path.is_file():
        raise ValueError(f"data.sampling.file: {path} is no file")
    found: dict[str, float] = {}
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        if not {"file_name", "weight"} <= set(reader.fieldnames or ()):
            raise ValueError(f"{path}: has the columns {reader.fieldnames or 'none'}, not file_name and weight")
        for row in reader:
            try:
                weight = float(row["weight"])
            except (TypeError, ValueError):
                weight = math.nan
            if not 0.0 <= weight < math.inf:
                raise ValueError(f"{path}: line {reader.line_num}: weight {row['weight']!r} is no number from 0 on")
            found[row["file_name"]] = weight
    weights = np.array([found.get(name, math.nan) for name in split.file_names])
    missing = np.flatnonzero(np.isnan(weights))
    if len(missing):
        raise ValueError(
            f"{path}: no weight for {len(missing):,} images of {split.split}, the first of them"
            f" {split.file_names[missing[0]]}"
        )
    return weights
