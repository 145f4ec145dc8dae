"""The charts and tables of one kind of detected objects."""

from collections.abc import Sequence

import numpy as np

from detcore.evaluation.diagnosis import Bin, Calibration
from detcore.report import charts
from detcore.report.charts import Bar, Line
from detcore.report.findings import KindFindings
from detcore.report.measured import PREFIXES
from detcore.report.parts import Chart, Charts, Heading, Part, Points, Section, Table

TIDE_NAMES = {
    "Cls": "wrong class", "Loc": "badly placed", "Both": "wrong class and place", "Dupe": "found twice",
    "Bkg": "nothing there", "Miss": "not found",
}  # fmt: skip
_MOST_LINES = 100
"""Classes that have a line of their own in a chart."""
_STRIDE = 10
"""Every so manyth threshold is drawn."""


def sections(found: KindFindings, *, several: bool) -> list[Section]:
    """All about it; in one section where there are other kinds, too."""
    prefix = PREFIXES[found.kind]
    own = [
        Section(
            title="Curves", anchor="curves", parts=[Charts(charts=_curves(found))],
            note="At IoU 0.5. The score threshold decides how many detections are kept: what a use needs is read here.",
        ),
        Section(
            title="Calibration", anchor="calibration", parts=_calibration(found.calibration, prefix),
            note="Where a score is the chance to be right, the columns end at the dashed line.",
        ),
        Section(
            title="Size and shape", anchor="size", parts=_sizes(found, prefix),
            note="AP of the objects in a range; detections out of it that found nothing do not count there.",
        ),
    ]  # fmt: skip
    if found.tide is not None:
        own.insert(1, _errors(found.tide, prefix))
    if not several:
        return own
    parts = [part for one in own for part in (Heading(title=one.title, note=one.note), *one.parts)]
    return [Section(title=found.kind.capitalize(), anchor=found.kind, parts=parts)]


def _curves(found: KindFindings) -> list[Chart]:
    scores, point, prefix = found.scores, found.operating_point(), PREFIXES[found.kind]
    names = found.class_names[:_MOST_LINES] if len(found.class_names) > 1 else ()
    thresholds = scores.thresholds[::_STRIDE]
    span = (float(thresholds[0]), float(thresholds[-1]))
    at = f"F1 {point['f1']:.2f} at score {point['score']:.2f}"
    precision = charts.lines(
        [
            *(Line(name=name, x=found.curve.recall, y=found.curve.by_class[name]) for name in names),
            Line(name="mean", x=found.curve.recall, y=found.curve.mean, look="mean"),
        ],
        x_label="recall", y_label="precision",
    )  # fmt: skip
    f1 = charts.lines(
        [
            *(Line(name=name, x=thresholds, y=scores.f1[row, ::_STRIDE]) for row, name in enumerate(names)),
            Line(name="mean", x=thresholds, y=scores.f1.mean(axis=0)[::_STRIDE], look="mean"),
        ],
        x_label="score threshold", y_label="F1", x_range=span, mark=(point["score"], point["f1"], at),
    )  # fmt: skip
    both = charts.lines(
        [
            Line(name="precision", x=thresholds, y=scores.precision.mean(axis=0)[::_STRIDE], look="second"),
            Line(name="recall", x=thresholds, y=scores.recall.mean(axis=0)[::_STRIDE], look="third"),
        ],
        x_label="score threshold", y_label="mean over classes", x_range=span,
    )  # fmt: skip
    each = "; grey, the classes" if names else ""
    return [
        Chart(name=f"{prefix}_precision_recall", caption=f"Precision over recall{each}", drawing=precision),
        Chart(name=f"{prefix}_f1", caption=f"F1 over the score threshold{each}", drawing=f1),
        Chart(name=f"{prefix}_threshold", caption="Precision and recall over the score threshold", drawing=both),
    ]


def _errors(tide: dict[str, tuple[int, float]], prefix: str) -> Section:
    order = sorted(tide, key=lambda name: -tide[name][1])
    drawing = charts.bars(
        [
            Bar(
                name=TIDE_NAMES[name],
                value=tide[name][1],
                text=f"+{tide[name][1]:.1f}  ({tide[name][0]:,})",
                look="bad",
            )
            for name in order
        ],
        label="TIDE errors",
    )
    table = Table(
        columns=("error", "how many", "AP50 without them"),
        rows=[(TIDE_NAMES[name], tide[name][0], f"+{tide[name][1]:.2f}") for name in order],
        folded="as a table",
    )
    caption = "How much higher AP50 would be if these errors were mended; in brackets, how many there are"
    return Section(
        title="Errors",
        anchor="errors",
        parts=[Charts(charts=[Chart(name=f"{prefix}_errors", caption=caption, drawing=drawing)]), table],
        note="TIDE (Bolya et al., 2020) over all detections of any score. Each error counts once; gains do not add up.",
    )


def _calibration(found: Calibration, prefix: str) -> list[Part]:
    edges = zip(found.edges[:-1], found.edges[1:], strict=True)
    bars = [
        Bar(name=f"{low:.1f}", value=precision, text=f"{100 * precision:.1f} % of {count:,} are right")
        for (low, high), precision, count in zip(edges, found.precision, found.counts, strict=True)
    ]  # fmt: skip
    drawing = charts.columns(bars, x_label="score", y_label="share that is right", diagonal=True, wide=True)
    tenths = np.array(found.counts) / max(max(found.counts), 1)
    counts = charts.columns(
        [Bar(name=bar.name, value=float(share), text=f"{count:,} detections", look="soft")
         for bar, share, count in zip(bars, tenths, found.counts, strict=True)],
        x_label="score", y_label="detections", whole=float(max(found.counts)), wide=True,
    )  # fmt: skip
    worst = "too low" if _signed(found) > 0 else "too high"
    return [
        Points(
            lines=[
                f"Scores and the share of right detections are {found.error:.3f} apart on average over detections "
                f"(ECE), at most {found.largest:.3f}; on the whole scores are {worst}."
            ]
        ),
        Charts(
            charts=[
                Chart(
                    name=f"{prefix}_calibration",
                    caption="Share of detections that are right, by score",
                    drawing=drawing,
                ),
                Chart(name=f"{prefix}_scores", caption="How many detections have which score", drawing=counts),
            ]
        ),
    ]


def _signed(found: Calibration) -> float:
    """Precision less score, over detections."""
    pairs = zip(found.scores, found.precision, found.counts, strict=True)
    return sum(count * (precision - score) for score, precision, count in pairs if count)


def _sizes(found: KindFindings, prefix: str) -> list[Part]:
    shape = "longer / shorter side" if found.kind == "rotated" else "width / height"
    parts: list[tuple[str, str, Sequence[Bin]]] = [
        ("size", "√area in pixels", found.sizes),
        ("shape", shape, found.aspects),
    ]
    drawn, tables = [], []
    for name, label, bins in parts:
        bars = [
            Bar(name=in_range(one), value=float("nan") if one.ap is None else one.ap / 100, text=_percent(one.ap))
            for one in bins
        ]
        drawing = charts.columns(bars, x_label=label, y_label="AP", whole=100)
        drawn.append(Chart(name=f"{prefix}_{name}", caption=f"AP by {label}", drawing=drawing))
        rows = [(in_range(one), one.objects, *map(_percent, (one.ap, one.ap50, one.ar))) for one in bins]
        tables.append(
            Table(columns=(label, "objects", "AP", "AP50", "AR"), rows=rows, folded=f"by {label}, as a table")
        )
    return [Charts(charts=drawn), *tables]


def in_range(one: Bin) -> str:
    """The range of a bin, short."""
    if np.isinf(one.high):
        return f"> {_short(one.low)}"
    return f"< {_short(one.high)}" if one.low == 0 else f"{_short(one.low)}–{_short(one.high)}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
