"""Two models on the same images: what is better, and whether that is more than chance."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from detcore.evaluation.bootstrap import Floats, Interval, Samples, interval, mean
from detcore.evaluation.diagnosis import Kind
from detcore.report.measured import PREFIXES, Measured


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One figure of both.

    Attributes:
        name: of the figure, or of a class.
        own, other: in percent.
        change: own - other, with its 95 % interval; None where it is not known how sure it is.
        better: the share of the bootstrap's sets on which own is higher.
    """

    name: str
    own: float
    other: float
    change: Interval | None = None
    better: float | None = None

    @property
    def verdict(self) -> str:
        """better, worse, or no difference that these images show."""
        if self.change is None:
            return ""
        return "better" if self.change.low > 0 else "worse" if self.change.high < 0 else "not sure"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A model against another.

    Attributes:
        other: the other one's title.
        figures: of each kind of prediction AP, AP50 and AP75; other figures of both without an interval.
        classes: AP by class of the first kind of prediction, the largest gain first.
    """

    other: str
    figures: tuple[Difference, ...]
    classes: tuple[Difference, ...]


def compare(
    own: Measured, other: Measured, samples: Mapping[Kind, Samples], others: Mapping[Kind, Samples]
) -> Comparison:
    """The bootstrap's sets are the same images for both, so that the images' difficulty cancels."""
    figures = [
        _difference(f"{PREFIXES[kind]}_{name}", mean(getattr(samples[kind], name)), mean(getattr(others[kind], name)))
        for kind in others
        for name in ("ap", "ap50", "ap75")
    ]
    sure = {figure.name for figure in figures}
    figures += [
        Difference(name=name, own=value, other=other.metrics[name])
        for name, value in own.metrics.items()
        if name in other.metrics and name not in sure
    ]
    classes: list[Difference] = []
    if others:
        kind = next(iter(others))
        names = own.truth.names_by_id
        ours, theirs = samples[kind].ap, others[kind].ap
        classes = [
            _difference(name, ours[:, place], theirs[:, place])
            for place, name in enumerate(names)
            if not np.isnan(ours[0, place])
        ]
    return Comparison(
        other=other.title,
        figures=tuple(figures),
        classes=tuple(sorted(classes, key=lambda one: -(one.own - one.other))),
    )


def _difference(name: str, own: Floats, other: Floats) -> Difference:
    change = own - other
    drawn = change[1:][~np.isnan(change[1:])]
    better = float((drawn > 0).mean() + 0.5 * (drawn == 0).mean()) if len(drawn) else None
    return Difference(name=name, own=float(own[0]), other=float(other[0]), change=interval(change), better=better)
