"""The files of a report."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from detcore.report import markdown
from detcore.report.findings import Findings, plain
from detcore.report.page import html
from detcore.report.sections import sections
from detcore.report.suspicions import as_csv, suspicions

NAMES = ("report.html", "report.md", "report.json", "label_errors.csv", "label_errors.json")


def write_report(findings: Findings, folder: Path) -> Path:
    """Writes a report: `report.html`, which needs nothing else; `report.md` with `images/`; `report.json`, its numbers;
    `label_errors.csv` and `.json`, labels to be looked at; and tables for plots, such as `f1_curve.csv`.

    Files of another report in the folder are replaced, other files are left alone.

    Returns:
        The page's path.
    """
    measured = findings.measured
    shown = sections(findings)
    images = folder / markdown.FOLDER
    images.mkdir(parents=True, exist_ok=True)
    for leftover in (*images.glob("*.svg"), *images.glob("*.jpg")):
        leftover.unlink()
    for name, data in markdown.files(shown):
        (images / name).write_bytes(data)
    labels = [suspicion for _, suspicion in suspicions(findings)]
    texts = {
        "report.md": markdown.markdown(measured.title, measured.about, shown),
        "report.json": json.dumps(to_dict(findings), indent=1) + "\n",
        "label_errors.csv": as_csv(labels),
        "label_errors.json": json.dumps([asdict(label) for label in labels], indent=1) + "\n",
        **dict(plots(findings)),
        "report.html": html(measured.title, measured.about, shown),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder / "report.html"


def to_dict(findings: Findings) -> dict[str, Any]:
    """The numbers of a report, as JSON has them."""
    measured = findings.measured
    found: dict[str, Any] = {
        "title": measured.title,
        "about": measured.about,
        "images": len(measured.truth.coco["images"]),
        "objects": len(measured.truth.objects),
        "detections": 0 if measured.results is None else len(measured.results.scores),
        "metrics": measured.metrics,
        "per_class": measured.per_class,
        "kinds": {
            kind.kind: {
                "precision": kind.precision,
                "operating_point": kind.operating_point(),
                "tide": None if kind.tide is None else {
                    name: {"count": count, "ap50_gain": gain} for name, (count, gain) in kind.tide.items()
                },
                "calibration": kind.calibration,
                "by_size": kind.sizes,
                "by_shape": kind.aspects,
            }
            for kind in findings.kinds
        },
        "min_score": findings.min_score,
        "confused": [
            {"true": true, "predicted": taken, "count": count, "share": share}
            for true, taken, count, share in findings.confused()
        ],
        "worst_images": [
            {"file_name": one.file_name, "found": one.found, "wrong": one.false, "missed": one.missed, "f1": one.f1}
            for one in findings.images[:50]
        ],
        "label_errors": len(suspicions(findings)),
        "comparison": None if findings.comparison is None else asdict(findings.comparison),
        "notes": findings.notes,
    }  # fmt: skip
    return {name: plain(value) for name, value in found.items()}


def plots(findings: Findings) -> Iterator[tuple[str, str]]:
    """Tables that plots are drawn from, DVC's among them, by the names of their files."""
    if not findings.kinds:
        return
    first = findings.kinds[0]
    means = {name: getattr(first.scores, name).mean(axis=0) for name in ("precision", "recall", "f1")}
    yield (
        "f1_curve.csv",
        _table(
            {"score": score, **{name: values[place] for name, values in means.items()}}
            for place, score in enumerate(first.scores.thresholds)
            if place % 10 == 0
        ),
    )
    bins = zip(first.calibration.scores, first.calibration.precision, first.calibration.counts, strict=True)
    yield "calibration.csv", _table({"score": a, "precision": b, "count": n} for a, b, n in bins if n)
    if first.tide is not None:
        rows = ({"error": name, "ap50_gain": gain, "count": count} for name, (count, gain) in first.tide.items())
        yield "errors.csv", _table(rows)
    if findings.confusion is not None:
        names = [*findings.measured.truth.names_by_id, "nothing"]
        counts = findings.confusion.tolist()
        pairs = ((true, predicted) for true in range(len(names)) for predicted in range(len(names)))
        # DVC's template counts rows: one an object.
        yield (
            "confusion.csv",
            _table(
                {"actual": names[true], "predicted": names[predicted]}
                for true, predicted in pairs
                for _ in range(counts[true][predicted])
            ),
        )


def _table(rows: Iterator[Mapping[str, object]]) -> str:
    text = io.StringIO(newline="")
    writer: csv.DictWriter[str] | None = None
    for row in rows:
        if writer is None:
            writer = csv.DictWriter(text, list(row))
            writer.writeheader()
        writer.writerow(row)
    return text.getvalue()
