"""Whether one model is better than another, or was lucky with the images.

The paired bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13): images are drawn with
replacement, both models are measured on the same draw, and the differences' percentiles bound the true difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detcore.evaluation.coco import IouType, LoadedTruth, hotcoco_evaluation
from detcore.evaluation.results import Results

KINDS: dict[str, IouType] = {"box": "bbox", "mask": "segm", "keypoint": "keypoints"}
"""What can be compared so, by its metrics' prefix."""

_NAMES = {"AP": "ap", "AP50": "ap50", "AP75": "ap75", "APs": "ap_small", "APm": "ap_medium", "APl": "ap_large"} | {
    "AR": "ar",
    "AR100": "ar100",
}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How a figure of `second` differs from that of `first`, in percent points.

    Attributes:
        first, second: the figures, in percent.
        low, high: the interval that holds the difference with `confidence`.
        confidence: 0.95, say.
    """

    first: float
    second: float
    low: float
    high: float
    confidence: float

    @property
    def delta(self) -> float:
        return self.second - self.first

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True, kw_only=True)
class Differences:
    """Of one kind of prediction.

    Attributes:
        metrics: by name: box_ap, ….
        per_class: class name -> AP of `first` and of `second`, in percent; of those that have objects.
        num_images: that were drawn from.
        num_resamples: draws.
    """

    metrics: dict[str, Difference]
    per_class: dict[str, tuple[float, float]]
    num_images: int
    num_resamples: int


def bootstrap_differences(
    truth: LoadedTruth,
    first: Results,
    second: Results,
    kind: str,
    *,
    sigmas: Sequence[float] | None = None,
    num_resamples: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> Differences:
    """The differences between two models' detections of the same images, by COCO's protocol.

    Args:
        truth: of the images.
        kind: box, mask or keypoint; both have it.
        sigmas: of keypoints; None takes those of COCO's 17.
        num_resamples: 500 give each end of the interval to about a tenth of its width.
        seed: of the draws: the same seed gives the same interval.

    Raises:
        ValueError: for another kind, or without hotcoco.
    """
    if kind not in KINDS:
        raise ValueError(f"no bootstrap of {kind!r}, only of {', '.join(KINDS)}")
    one, other = (hotcoco_evaluation(truth, results, KINDS[kind]) for results in (first, second))
    for evaluation in (one, other):
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=np.float64)
        evaluation.evaluate()
    import hotcoco  # it is there, or there were none to evaluate

    found: dict[str, Any] = hotcoco.compare(one, other, n_bootstrap=num_resamples, seed=seed, confidence=confidence)
    return Differences(
        metrics={f"{kind}_{name}": _difference(found, key) for key, name in _NAMES.items() if _has(found, key)},
        per_class={
            row["cat_name"]: (100.0 * row["ap_a"], 100.0 * row["ap_b"])
            for row in found["per_category"]
            if min(row["ap_a"], row["ap_b"]) >= 0  # -1: no object
        },
        num_images=found["num_images"],
        num_resamples=found["n_bootstrap"],
    )


def _has(found: dict[str, Any], key: str) -> bool:
    """Whether it is a figure of this kind, and there are objects of its size: -1 says that there are none."""
    return key in found["metrics_a"] and min(found["metrics_a"][key], found["metrics_b"][key]) >= 0


def _difference(found: dict[str, Any], key: str) -> Difference:
    interval = found["ci"][key]
    return Difference(
        first=100.0 * found["metrics_a"][key],
        second=100.0 * found["metrics_b"][key],
        low=100.0 * interval["lower"],
        high=100.0 * interval["upper"],
        confidence=interval["confidence"],
    )
