"""Objects that may be labelled wrongly: where the model is sure, and the truth says otherwise."""

import csv
import io
from dataclasses import asdict, dataclass, fields

from detcore.evaluation.mistakes import Fault, Mistake
from detcore.report.findings import Findings

_WHAT: dict[Fault, str] = {"Bkg": "missing", "Cls": "class", "Loc": "box"}
"""What may be wrong with the truth where a detection has such a fault. Other faults say nothing about it."""
IN_WORDS = {
    "missing": "nothing is labelled here",
    "class": "labelled as another class",
    "box": "labelled with another box",
}


@dataclass(frozen=True, kw_only=True)
class Suspicion:
    """A label to be looked at.

    Attributes:
        file_name, image_id: where.
        suspicion: 'missing', 'class' or 'box'; see `IN_WORDS`.
        score, predicted: of the detection, and its class.
        x, y, width, height: its box in pixels; of a rotated one, the upright box around it.
        labelled, annotation_id: the class and id of the object that it is nearest to, None where there is none.
        iou: with that object.
    """

    file_name: str
    image_id: int
    suspicion: str
    score: float
    predicted: str
    x: float
    y: float
    width: float
    height: float
    labelled: str | None
    annotation_id: int | None
    iou: float


def suspicions(findings: Findings) -> list[tuple[Mistake, Suspicion]]:
    """The surest first, with the mistakes that they are drawn from."""
    results = findings.measured.results
    if results is None:
        return []
    coco = findings.measured.truth.coco
    names = {category["id"]: category["name"] for category in coco["categories"]}
    file_names = {image["id"]: str(image.get("file_name", image["id"])) for image in coco["images"]}
    boxes = results.boxes_xywh()
    found = []
    for mistake in findings.mistakes:
        if mistake.fault not in _WHAT:
            continue
        row, image_id = mistake.row, int(results.image_ids[mistake.row])
        annotation = (
            None if mistake.annotation < 0 or mistake.fault == "Bkg" else coco["annotations"][mistake.annotation]
        )
        x, y, width, height = (round(side, 2) for side in boxes[row].tolist())
        suspicion = Suspicion(
            file_name=file_names[image_id],
            image_id=image_id,
            suspicion=_WHAT[mistake.fault],
            score=round(float(results.scores[row]), 4),
            predicted=names[int(results.category_ids[row])],
            x=x,
            y=y,
            width=width,
            height=height,
            labelled=None if annotation is None else names[annotation["category_id"]],
            annotation_id=None if annotation is None else annotation["id"],
            iou=round(mistake.iou, 3),
        )
        found.append((mistake, suspicion))
    return found


def as_csv(rows: list[Suspicion]) -> str:
    """A table with a header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [field.name for field in fields(Suspicion)])
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()
