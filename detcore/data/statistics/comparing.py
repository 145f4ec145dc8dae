"""How far two splits are apart, and which classes come together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detcore.data.statistics.columns import SplitColumns

_PERMUTATIONS = 50
_MOST_CLASSES = 20
_MOST_DIFFERENT = 10


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A split against train.

    Attributes:
        classes: total variation distance of the classes' shares of the objects, 0 (the same) to 1 (none in common).
        classes_by_chance: what it is at the 95th percentile where images are dealt to splits of these sizes at random:
            above it, the splits differ.
        sizes: Kolmogorov-Smirnov distance of the box sizes, 0 to 1.
        most_different: at most ten classes, with their shares of train's and of this split's objects.
        only_here, only_in_train: names of classes.
    """

    classes: float
    classes_by_chance: float
    sizes: float
    most_different: dict[str, tuple[float, float]]
    only_here: list[str]
    only_in_train: list[str]


def compare_splits(train: SplitColumns, other: SplitColumns, categories: tuple[str, ...]) -> Difference:
    """The difference of `other` to `train`; crowd regions are left out."""
    tables = [_class_table(split, len(categories)) for split in (train, other)]
    counts = [np.bincount(classes, numbers, minlength=len(categories)) for _, classes, numbers in tables]
    shares = [_shares(count) for count in counts]
    gap = shares[1] - shares[0]
    ranked = np.argsort(-np.abs(gap), kind="stable")[:_MOST_DIFFERENT].tolist()
    sizes = [np.sqrt(split.sides[~split.crowd].clip(min=0).prod(axis=1)) for split in (train, other)]
    return Difference(
        classes=_distance(*counts),
        classes_by_chance=_by_chance(train, other, len(categories)),
        sizes=_kolmogorov_smirnov(*sizes),
        most_different={categories[k]: (float(shares[0][k]), float(shares[1][k])) for k in ranked if gap[k]},
        only_here=[categories[k] for k in np.flatnonzero((counts[0] == 0) & (counts[1] > 0)).tolist()],
        only_in_train=[categories[k] for k in np.flatnonzero((counts[0] > 0) & (counts[1] == 0)).tolist()],
    )


def cooccurrence(split: SplitColumns, categories: tuple[str, ...]) -> tuple[list[str], list[list[int]]] | None:
    """At most 20 classes, by falling frequency, and in how many images each pair of them is; on the diagonal, each."""
    if len(categories) < 2:
        return None
    samples, classes, _ = _class_table(split, len(categories))
    images = np.bincount(classes, minlength=len(categories))
    chosen = np.argsort(-images, kind="stable")[:_MOST_CLASSES]
    place = np.full(len(categories), -1)
    place[chosen] = np.arange(len(chosen))
    there = np.zeros((len(split.sizes), len(chosen)), np.float32)
    kept = place[classes] >= 0
    there[samples[kept], place[classes[kept]]] = 1.0
    return [categories[k] for k in chosen.tolist()], (there.T @ there).astype(np.int64).tolist()


def _class_table(
    split: SplitColumns, num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Image, class and number of objects, of each pair that occurs."""
    kept, classes = ~split.crowd, max(num_classes, 1)
    keys, numbers = np.unique(split.samples[kept] * classes + split.labels[kept], return_counts=True)
    return keys // classes, keys % classes, numbers


def _by_chance(train: SplitColumns, other: SplitColumns, num_classes: int) -> float:
    """The 95th percentile of the distance between splits of these sizes that images are dealt to at random."""
    first, second = (_class_table(split, num_classes) for split in (train, other))
    number = len(train.sizes) + len(other.sizes)
    samples = np.concatenate([first[0], second[0] + len(train.sizes)])
    classes, objects = (np.concatenate([first[k], second[k]]) for k in (1, 2))
    if not len(samples):
        return 0.0
    total = np.bincount(classes, objects, minlength=num_classes)
    random = np.random.default_rng(0)
    found = []
    for _ in range(_PERMUTATIONS):
        dealt = np.zeros(number, np.bool_)
        dealt[random.choice(number, len(other.sizes), replace=False)] = True
        mine = dealt[samples]
        counts = np.bincount(classes[mine], objects[mine], minlength=num_classes)
        found.append(_distance(total - counts, counts))
    return float(np.quantile(found, 0.95))


def _distance(a: NDArray[Any], b: NDArray[Any]) -> float:
    return float(np.abs(_shares(a) - _shares(b)).sum() / 2)


def _shares(counts: NDArray[Any]) -> NDArray[np.float64]:
    return counts / max(float(counts.sum()), 1.0)


def _kolmogorov_smirnov(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """The largest gap between two empirical distributions."""
    if not len(a) or not len(b):
        return 0.0
    at = np.concatenate([a, b])
    gaps = np.searchsorted(np.sort(a), at, "right") / len(a) - np.searchsorted(np.sort(b), at, "right") / len(b)
    return float(np.abs(gaps).max())
