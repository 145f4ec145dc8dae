"""A report's sections in order: what the HTML page and the Markdown file both are made of."""

from collections.abc import Iterator, Sequence

import numpy as np

from detcore.evaluation.bootstrap import Interval
from detcore.report import charts, kinds
from detcore.report.charts import Bar
from detcore.report.comparing import Comparison, Difference
from detcore.report.findings import Findings
from detcore.report.measured import PREFIXES
from detcore.report.parts import Card, Cards, Chart, Charts, Part, Pictures, Points, Section, Table
from detcore.report.pictures import Picture
from detcore.report.pictures import Pictures as Drawn
from detcore.report.suspicions import IN_WORDS, suspicions

_MOST_CELLS = 60
"""Classes that a confusion matrix shows; of more, those that are confused most."""
_WORST, _BEST, _LABELS, _LISTED = 8, 4, 12, 50
"""Pictures of each, and rows of labels to be looked at."""
_HEADLINES = ("miou", "pq", "proposal_ar1000")
_MOST_CHANGES = 10
"""Classes that are shown for having changed most, of each side."""
NAMES = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "ar100": "AR100", "ar300": "AR300", "ar": "AR", "f1": "F1",
    "f1_score": "score ≥", "f1_precision": "precision", "f1_recall": "recall", "iou": "IoU", "acc": "accuracy",
    "boundary_iou": "boundary IoU", "miou": "mIoU", "pq": "PQ", "sq": "SQ", "rq": "RQ",
}  # fmt: skip


def sections(findings: Findings) -> list[Section]:
    """All that a report says; pictures are drawn here."""
    several = len(findings.kinds) > 1
    parts = [_overview(findings)]
    if findings.comparison is not None:
        parts.append(_comparison(findings.comparison))
    parts.append(_classes(findings))
    for found in findings.kinds:
        parts += kinds.sections(found, several=several)
    parts += [*_confusion(findings), *_pixels(findings), *_images(findings), *_labels(findings)]
    return [section for section in parts if section.parts]


def metric_name(name: str, *, kinds: Sequence[str]) -> str:
    """A metric's name for people; with one kind of prediction it need not be said of which."""
    prefix, _, rest = name.partition("_")
    if prefix not in PREFIXES.values():
        return NAMES.get(name, name)
    short = NAMES.get(rest, rest.replace("_", " ").replace("ap ", "AP ").replace("ar ", "AR "))
    return f"{prefix} {short}" if len(kinds) > 1 else short


def _overview(findings: Findings) -> Section:
    measured = findings.measured
    of = [PREFIXES[kind] for kind in measured.kinds]
    cards = []
    for found in findings.kinds:
        prefix = PREFIXES[found.kind]
        value = measured.metrics.get(f"{prefix}_ap", found.precision["ap"].value)
        cards.append(
            Card(label=metric_name(f"{prefix}_ap", kinds=of), value=f"{value:.1f}", note=_spread(found.precision["ap"]))
        )
        cards.append(Card(label=metric_name(f"{prefix}_ap50", kinds=of), value=f"{found.precision['ap50'].value:.1f}",
                          note=_spread(found.precision["ap50"])))  # fmt: skip
    cards += [
        Card(label=NAMES.get(name, name), value=f"{measured.metrics[name]:.1f}")
        for name in _HEADLINES
        if name in measured.metrics
    ]
    if findings.kinds:
        point = findings.kinds[0].operating_point()
        note = f"precision {point['precision']:.2f}, recall {point['recall']:.2f}, from score {point['score']:.2f}"
        cards.append(Card(label="best F1", value=f"{point['f1']:.2f}", note=note))
    coco = measured.truth.coco
    objects = len(measured.truth.objects)
    detections = 0 if measured.results is None else len(measured.results.scores)
    note = f"{objects:,} objects, {detections:,} detections" if objects else ""
    cards.append(Card(label="images", value=f"{len(coco['images']):,}", note=note))
    every = Table(
        columns=("metric", "value"),
        rows=[(metric_name(name, kinds=of), f"{value:.2f}") for name, value in measured.metrics.items()],
        folded="all metrics",
    )
    parts: list[Part] = [Cards(cards=cards), Points(lines=[*_in_short(findings), *findings.notes])]
    return Section(title="Overview", anchor="overview", parts=[*parts, every])


def _in_short(findings: Findings) -> Iterator[str]:
    """What to do first, as far as figures can tell."""
    for found in findings.kinds[:1]:
        if found.tide is not None:
            worst = max(found.tide, key=lambda name: found.tide[name][1] if found.tide else 0.0)
            count, gain = found.tide[worst]
            if gain >= 0.05:
                name = kinds.TIDE_NAMES[worst]
                yield f"What costs most: {name} ({count:,} times); without it AP50 would be {gain:.1f} higher."
        bins = [one for one in found.sizes if one.ap is not None and one.objects >= 10]
        if len(bins) > 1:
            low = min(bins, key=lambda one: one.ap or 0.0)
            yield f"Hardest size: {kinds.in_range(low)} pixels, AP {low.ap:.1f} on {low.objects:,} objects."
    for true, taken, count, share in findings.confused(most=1):
        yield f"Most confused: {true} taken for {taken}, {count:,} times, {100 * share:.0f} % of its objects."
    found_labels = len(suspicions(findings))
    if found_labels:
        yield f"Labels worth a look: {found_labels:,} that detections from score {findings.min_score:.2f} contradict."


def _spread(found: Interval) -> str:
    return f"{found.low:.1f} to {found.high:.1f} (95 %)"


def _comparison(found: Comparison) -> Section:
    sure = [figure for figure in found.figures if figure.change is not None]
    rest = [figure for figure in found.figures if figure.change is None]
    rows = [_changed(figure) for figure in sure]
    parts: list[Part] = [
        Table(columns=("", "this", "other", "change", "95 %", "better in", "verdict"), rows=rows),
    ]
    changed = found.classes
    if len(changed) > 2 * _MOST_CHANGES:
        changed = (*changed[:_MOST_CHANGES], *changed[-_MOST_CHANGES:])
    bars = [
        Bar(
            name=one.name, value=one.change.value, low=one.change.low, high=one.change.high,
            text=f"{one.change.value:+.1f}", look="good" if one.change.value >= 0 else "bad",
        )
        for one in changed
        if one.change is not None
    ]  # fmt: skip
    if bars:
        drawing = charts.bars(bars, label="change of AP by class", zero=True)
        caption = "Change of AP by class, with 95 % intervals: one that crosses zero may be chance"
        parts.append(Charts(charts=[Chart(name="changes", caption=caption, drawing=drawing)]))
    if rest:
        rows = [(one.name, f"{one.own:.2f}", f"{one.other:.2f}", f"{one.own - one.other:+.2f}") for one in rest]
        parts.append(Table(columns=("metric", "this", "other", "change"), rows=rows, folded="other metrics"))
    return Section(
        title=f"Against {found.other}", anchor="comparison", parts=parts,
        note="Both on the same images. Intervals are of the bootstrap over images, the same draws for both.",
    )  # fmt: skip


def _changed(figure: Difference) -> tuple[str, ...]:
    assert figure.change is not None
    better = "–" if figure.better is None else f"{100 * figure.better:.1f} %"
    return (
        metric_name(figure.name, kinds=("", "")), f"{figure.own:.2f}", f"{figure.other:.2f}",
        f"{figure.change.value:+.2f}", f"{figure.change.low:+.2f} to {figure.change.high:+.2f}", better, figure.verdict,
    )  # fmt: skip


def _classes(findings: Findings) -> Section:
    measured = findings.measured
    names = list(dict.fromkeys(name for table in measured.per_class.values() for name in table))
    counts: dict[str, int] = {}
    by_id = {category["id"]: category["name"] for category in measured.truth.coco["categories"]}
    for annotation in measured.truth.objects:
        name = by_id[annotation["category_id"]]
        counts[name] = counts.get(name, 0) + 1
    of = [PREFIXES[kind] for kind in measured.kinds]
    rows = [
        (name, counts.get(name, "–"), *(_figure(table.get(metric), metric) for metric in names))
        for name, table in measured.per_class.items()
    ]
    if not rows:
        return Section(title="Classes", anchor="classes", parts=[])
    shares = frozenset(2 + place for place, name in enumerate(names) if not name.endswith("_score"))
    columns = ["class", "objects", *(metric_name(name, kinds=of) for name in names)]
    note = "In percent. F1 at IoU 0.5 and at the score of each class that makes it highest; a heading sorts."
    return Section(title="Classes", anchor="classes", note=note, parts=[Table(columns=columns, rows=rows, bars=shares)])


def _figure(value: float | None, name: str) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if name.endswith("_score") else f"{value:.1f}"


def _confusion(findings: Findings) -> Iterator[Section]:
    if findings.confusion is None:
        return
    names = [*findings.measured.truth.names_by_id, "nothing"]
    chart, note = _matrix(findings.confusion, names, name="confusion")
    rows = [(true, taken, count, f"{100 * share:.1f} %") for true, taken, count, share in findings.confused()]
    parts: list[Part] = [Charts(charts=[chart])]
    if rows:
        parts.append(Table(columns=("true", "taken for", "times", "of its objects"), rows=rows))
    yield Section(
        title="Confusion", anchor="confusion", parts=parts,
        note=f"Objects by their class and that of the detection there, at IoU 0.5, from score {findings.min_score:.2f} "
        f"on; rows in percent. The last row: detected where nothing is.{note}",
    )  # fmt: skip


def _matrix(counts: np.ndarray, names: Sequence[str], *, name: str) -> tuple[Chart, str]:
    """Rows in shares; of many classes those that are confused most."""
    note = ""
    if len(names) > _MOST_CELLS:
        wrong = counts.astype(np.float64)
        np.fill_diagonal(wrong, 0)
        between = wrong[:-1, :-1].sum(axis=0) + wrong[:-1, :-1].sum(axis=1)
        there = np.flatnonzero(counts[:-1].sum(axis=1))
        chosen = np.sort(there[np.argsort(-between[there], kind="stable")[: _MOST_CELLS - 1]])
        chosen = np.append(chosen, len(names) - 1)
        note = f" Of {len(names) - 1:,} classes the {len(chosen) - 1} with objects that are confused most."
    else:
        chosen = np.arange(len(names))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    part, own = shares[np.ix_(chosen, chosen)], counts[np.ix_(chosen, chosen)]
    shown = [names[index] for index in chosen.tolist()]
    drawing = charts.heat_map(
        shown, part,
        lambda row, column: f"{shown[row]} → {shown[column]}: {own[row, column]:,} ({100 * part[row, column]:.1f} %)",
    )  # fmt: skip
    return Chart(name=name, caption="", drawing=drawing), note


def _pixels(findings: Findings) -> Iterator[Section]:
    """Of semantic and panoptic maps."""
    measured = findings.measured
    parts: list[Part] = []
    if measured.confusion is not None:
        chart, _ = _matrix(measured.confusion, measured.truth.semantic_classes, name="pixel_confusion")
        parts.append(Charts(charts=[chart]))
    if measured.pictures:
        shown = [Picture(image=image, caption="", file_name="") for image in measured.pictures]
        parts.append(Pictures(name="maps", pictures=shown))
    note = "Pixels by true and by predicted class, rows in percent." if measured.confusion is not None else ""
    yield Section(title="Maps", anchor="maps", parts=parts, note=note)


def _images(findings: Findings) -> Iterator[Section]:
    drawn = Drawn(findings)
    score = f"from score {findings.min_score:.2f} on"
    worst = [image for image in findings.images if image.false or image.missed]
    best = [image for image in reversed(findings.images) if image.found and not image.false and not image.missed]
    for title, anchor, images, most in (
        ("Worst images", "worst", worst, _WORST),
        ("Best images", "best", sorted(best, key=lambda image: -image.found), _BEST),
    ):
        pictures = [picture for image in images[:most] if (picture := drawn.compared(image)) is not None]
        parts: list[Part] = [Pictures(name=anchor, pictures=pictures)] if pictures else []
        if anchor == "worst" and images:
            rows = [
                (image.file_name, image.found, image.false, image.missed, f"{image.f1:.2f}")
                for image in images[:_LISTED]
            ]
            folded = f"the {len(rows)} worst of {len(findings.images):,} images" if pictures else ""
            parts.append(Table(columns=("image", "found", "wrong", "missed", "F1"), rows=rows, folded=folded))
        note = f"Truth beside prediction {score}: green is found, red is wrong, amber is missed."
        yield Section(title=title, anchor=anchor, parts=parts, note=note if pictures else "")


def _labels(findings: Findings) -> Iterator[Section]:
    found = suspicions(findings)
    if not found:
        return
    drawn = Drawn(findings)
    pictures = [picture for pair in found[:_LABELS] if (picture := drawn.suspicious(*pair)) is not None]
    parts: list[Part] = [Pictures(name="labels", pictures=pictures, small=True)] if pictures else []
    rows = [
        (
            one.file_name,
            f"{one.score:.2f}",
            one.predicted,
            IN_WORDS[one.suspicion],
            one.labelled or "–",
            f"{one.iou:.2f}",
        )
        for _, one in found[:_LISTED]
    ]
    columns = ("image", "score", "detected", "suspicion", "labelled", "IoU")
    parts.append(
        Table(columns=columns, rows=rows, folded=f"the first {len(rows)} of {len(found):,}" if pictures else "")
    )
    yield Section(
        title="Labels worth a look", anchor="labels", parts=parts,
        note="Detections (red) that the labels (blue) contradict, the surest first: the model is wrong there, or the "
        "label is. All of them are in label_errors.csv and label_errors.json.",
    )  # fmt: skip
