"""The files of a report."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from detcore.report import markdown
from detcore.report.findings import Findings, plain
from detcore.report.page import html
from detcore.report.sections import NOTHING, sections
from detcore.report.suspicions import as_csv, as_json

PLOTS = {
    "f1_curve.csv": ("score", "precision", "recall", "f1"),
    "calibration.csv": ("score", "precision", "count"),
    "errors.csv": ("error", "ap50_gain", "count"),
    "confusion.csv": ("actual", "predicted"),
}
"""Tables that plots are drawn from, DVC's among them, and their columns. One that does not apply has no rows."""


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
    labels = [suspicion for _, suspicion in findings.suspicions]
    texts = {
        "report.md": markdown.markdown(measured.title, measured.about, shown),
        "report.json": json.dumps(to_dict(findings), indent=1) + "\n",
        "label_errors.csv": as_csv(labels),
        "label_errors.json": as_json(labels),
        **plots(findings),
        "report.html": html(measured.title, measured.about, shown),
    }
    _write(folder, texts)
    return folder / "report.html"


def write_empty(folder: Path, *, title: str, about: str) -> None:
    """The files of a report on nothing: they say why."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.html": html(title, about, []),
        "report.md": markdown.markdown(title, about, []),
        "report.json": json.dumps({"title": title, "about": about}, indent=1) + "\n",
        "label_errors.csv": as_csv([]),
        **{name: _table(columns, []) for name, columns in PLOTS.items()},
        "label_errors.json": as_json([]),
    }
    _write(folder, texts)


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        # What is there may be a link into DVC's cache, which must keep the report that it has.
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


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
        "label_errors": len(findings.suspicions),
        "comparison": None if findings.comparison is None else asdict(findings.comparison),
        "notes": findings.notes,
    }  # fmt: skip
    return {name: plain(value) for name, value in found.items()}


def plots(findings: Findings) -> dict[str, str]:
    """The contents of `PLOTS`."""
    curve: list[dict[str, object]] = []
    calibration: list[dict[str, object]] = []
    errors: list[dict[str, object]] = []
    confusion: list[dict[str, object]] = []
    for first in findings.kinds[:1]:
        scores = first.scores
        means = {name: getattr(scores, name).mean(axis=0)[::10] for name in ("precision", "recall", "f1")}
        for place, score in enumerate(scores.thresholds[::10].tolist()):
            curve.append({"score": score, **{name: float(values[place]) for name, values in means.items()}})
        bins = first.calibration
        rows = zip(bins.scores, bins.precision, bins.counts, strict=True) if bins is not None else ()
        calibration += [{"score": score, "precision": right, "count": n} for score, right, n in rows if n]
        for name, (count, gain) in (first.tide or {}).items():
            errors.append({"error": name, "ap50_gain": gain, "count": count})
    if findings.confusion is not None:
        names = [*findings.measured.truth.names_by_id, NOTHING]
        for (true, predicted), times in np.ndenumerate(findings.confusion):
            # DVC's template counts rows: one an object.
            confusion.extend({"actual": names[true], "predicted": names[predicted]} for _ in range(times))
    tables = zip(PLOTS.items(), (curve, calibration, errors, confusion), strict=True)
    return {name: _table(columns, rows) for (name, columns), rows in tables}


def _table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
