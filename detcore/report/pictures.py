"""Images of a report: truth beside prediction with what is right and wrong in colour, and labels to be looked at."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from detcore.evaluation.mistakes import Mistake
from detcore.evaluation.rotated import upright_as_rotated
from detcore.inference import Drawing, compare, draw
from detcore.report.findings import Findings, ImageFindings
from detcore.report.suspicions import IN_WORDS, Suspicion

_RIGHT, _WRONG, _MISSED, _TRUTH = 2, 0, 3, 1
"""Numbers of colours: green, red, amber, blue."""
_MOST_OBJECTS = 100
"""Drawn on an image: of more nothing could be told."""
_LABEL_SIDE = 440
"""Longer side of the picture of a label, in pixels."""
_AROUND, _LEAST = 2.5, 160.0
"""A label is shown with this many times its box around it, at least so many pixels."""
FAULTS = {
    "Loc": "badly placed", "Cls": "wrong class", "Dupe": "found twice", "Bkg": "nothing there",
    "Both": "wrong class and place",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture, what it shows, and of which file."""

    image: Image.Image
    caption: str
    file_name: str


class Pictures:
    """Draws images of a report."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        measured = findings.measured
        coco = measured.truth.coco
        self._coco, self._read = coco, measured.read_image
        self._names = {category["id"]: category["name"] for category in coco["categories"]}
        self._label = {category["id"]: label for label, category in enumerate(coco["categories"])}
        self._skeleton = [(a - 1, b - 1) for c in coco["categories"][:1] for a, b in c.get("skeleton") or ()]
        self._places = {image["id"]: place for place, image in enumerate(coco["images"])}
        self._faults = {mistake.row: mistake.fault for mistake in findings.mistakes}
        self._annotations: dict[int, list[int]] = {}
        for place, annotation in enumerate(coco["annotations"]):
            self._annotations.setdefault(annotation["image_id"], []).append(place)

    def compared(self, image: ImageFindings) -> Picture | None:
        """Truth beside prediction; None where there is no picture of the image."""
        picture = self._read(image.place)
        if picture is None or self._findings.matches is None:
            return None
        matches, results = self._findings.matches, self._findings.measured.results
        assert results is not None
        kept = (results.image_ids[matches.rows] == image.image_id) & (
            results.scores[matches.rows] >= self._findings.min_score
        )
        rows, found = matches.rows[kept], set(matches.objects[kept].tolist())
        hits = dict(zip(rows.tolist(), matches.hits[kept].tolist(), strict=True))
        own = self._annotations.get(image.image_id, [])[:_MOST_OBJECTS]
        truth = self._truth(own, [self._colour_of(place, found) for place in own])
        rows = rows[np.argsort(-results.scores[rows], kind="stable")][:_MOST_OBJECTS]
        captions = []
        for row in rows.tolist():
            fault = "" if hits[row] else f" · {FAULTS.get(self._faults.get(row, ''), 'wrong')}"
            captions.append(f"{self._names[int(results.category_ids[row])]} {results.scores[row]:.2f}{fault}")
        prediction = self._prediction(rows, captions, [_RIGHT if hits[row] else _WRONG for row in rows.tolist()])
        caption = f"{image.found} found, {image.false} wrong, {image.missed} missed"
        return Picture(image=compare(picture, truth, prediction), caption=caption, file_name=image.file_name)

    def suspicious(self, mistake: Mistake, suspicion: Suspicion) -> Picture | None:
        """The surroundings of a label: what is labelled in blue, what the model sees in red."""
        place = self._places[suspicion.image_id]
        picture = self._read(place)
        if picture is None:
            return None
        left, top, right, bottom = _around(suspicion, picture.size)
        shift = np.array([left, top, left, top], dtype=np.float64)
        near = [
            index
            for index in self._annotations.get(suspicion.image_id, [])
            if _touches(self._coco["annotations"][index]["bbox"], (left, top, right, bottom))
        ][:_MOST_OBJECTS]
        truth = self._truth(near, [_TRUTH] * len(near))
        seen = self._prediction(np.array([mistake.row]), [f"{suspicion.predicted} {suspicion.score:.2f}"], [_WRONG])
        both = Drawing(
            boxes_xyxy=np.concatenate((seen.boxes_xyxy, truth.boxes_xyxy)) - shift,
            labels=np.concatenate((seen.labels, truth.labels)),
            captions=[*seen.captions, *truth.captions],
            colours=np.array([_WRONG, *[_TRUTH] * len(near)]),
            boxes_xywha=None if seen.boxes_xywha is None or truth.boxes_xywha is None else np.concatenate(
                (seen.boxes_xywha, truth.boxes_xywha)) - np.array([left, top, 0, 0, 0]),
        )  # fmt: skip
        drawn = draw(picture.crop((left, top, right, bottom)), both, max_side=_LABEL_SIDE)
        about = IN_WORDS[suspicion.suspicion]
        caption = f"{suspicion.predicted} {suspicion.score:.2f}: {about}"
        if suspicion.labelled is not None:
            caption += f" ({suspicion.labelled}, IoU {suspicion.iou:.2f})"
        return Picture(image=drawn, caption=caption, file_name=suspicion.file_name)

    def _colour_of(self, place: int, found: set[int]) -> int:
        if self._coco["annotations"][place].get("iscrowd"):
            return _TRUTH
        return _RIGHT if place in found else _MISSED

    def _truth(self, places: Sequence[int], colours: Sequence[int]) -> Drawing:
        rows = [self._coco["annotations"][place] for place in places]
        boxes = np.array([a["bbox"] for a in rows], dtype=np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        rotated = self._findings.measured.kinds[:1] == ("rotated",)
        masks = self._findings.measured.results is not None and self._findings.measured.results.rles is not None
        return Drawing(
            boxes_xyxy=boxes,
            labels=np.array([self._label[a["category_id"]] for a in rows], dtype=np.int64),
            captions=[self._names[a["category_id"]] + (" (crowd)" if a.get("iscrowd") else "") for a in rows],
            polygons=[_rings(a) for a in rows] if masks else None,
            keypoints=_keypoints(rows, self._findings.measured.truth.num_keypoints),
            skeleton=self._skeleton,
            boxes_xywha=np.array([upright_as_rotated(a) for a in rows], dtype=np.float64).reshape(-1, 5)
            if rotated
            else None,
            colours=np.array(colours, dtype=np.int64),
        )

    def _prediction(self, rows: NDArray[np.int64], captions: Sequence[str], colours: Sequence[int]) -> Drawing:
        results = self._findings.measured.results
        assert results is not None
        masks = None
        if results.rles is not None and len(rows):
            rles = [{"size": results.sizes[row].tolist(), "counts": results.rles[row]} for row in rows.tolist()]
            masks = coco_mask.decode(rles).astype(bool).transpose(2, 0, 1)
        return Drawing(
            boxes_xyxy=results.boxes_xyxy[rows],
            labels=np.array(
                [self._label[category] for category in results.category_ids[rows].tolist()], dtype=np.int64
            ),
            captions=captions,
            masks=masks,
            keypoints=None if results.keypoints is None else results.keypoints[rows],
            skeleton=self._skeleton,
            boxes_xywha=None if results.boxes_xywha is None else results.boxes_xywha[rows],
            colours=np.array(colours, dtype=np.int64),
        )


def _around(suspicion: Suspicion, size: tuple[int, int]) -> tuple[int, int, int, int]:
    sides = []
    for low, side, most in ((suspicion.x, suspicion.width, size[0]), (suspicion.y, suspicion.height, size[1])):
        middle, half = low + side / 2, max(side * _AROUND, _LEAST) / 2
        sides.append((max(int(middle - half), 0), min(int(middle + half) + 1, most)))
    (left, right), (top, bottom) = sides
    return left, top, max(right, left + 1), max(bottom, top + 1)


def _touches(box_xywh: Sequence[float], window: tuple[int, int, int, int]) -> bool:
    x, y, width, height = box_xywh
    left, top, right, bottom = window
    return x < right and y < bottom and x + width > left and y + height > top


def _rings(annotation: dict[str, Any]) -> list[NDArray[np.float64]]:
    """Outlines; a crowd region's run length has none."""
    outline = annotation.get("segmentation")
    return [np.array(ring, dtype=np.float64).reshape(-1, 2) for ring in outline] if isinstance(outline, list) else []


def _keypoints(rows: Sequence[dict[str, Any]], count: int) -> NDArray[np.float64] | None:
    if not count:
        return None
    points = [a.get("keypoints") or [0.0] * (3 * count) for a in rows]
    return np.array(points, dtype=np.float64).reshape(-1, count, 3)
