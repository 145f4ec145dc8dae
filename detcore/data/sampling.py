"""How often an epoch has each sample."""

import numpy as np
from numpy.typing import NDArray

from detcore.config.data import Sampling, UniformSampling
from detcore.data.shards import ShardedSplit


def sampling_factors(split: ShardedSplit, sampling: Sampling) -> NDArray[np.float64] | None:
    """How often an epoch has each sample; None means once. Crowd regions do not count."""
    if isinstance(sampling, UniformSampling):
        return None
    annotations = split.annotations
    samples = np.repeat(np.arange(len(split)), np.diff(annotations.starts))
    counted = ~annotations.crowd
    return repeat_factors(
        samples[counted], annotations.labels[counted], num_samples=len(split), threshold=sampling.threshold
    )


def repeat_factors(
    samples: NDArray[np.int64], labels: NDArray[np.int64], *, num_samples: int, threshold: float
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
    pairs = np.unique(np.stack([samples, labels], axis=1).astype(np.int64), axis=0)
    share = np.bincount(pairs[:, 1]) / num_samples
    of_class = np.maximum(1.0, np.sqrt(threshold / np.where(share > 0, share, 1.0)))
    factors = np.ones(num_samples)
    np.maximum.at(factors, pairs[:, 0], of_class[pairs[:, 1]])
    return factors
