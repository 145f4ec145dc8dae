"""What a report says, as numbers: everything that the pages show, and nothing about how."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.bootstrap import Interval, Samples, resampled
from detcore.evaluation.diagnosis import TIDE_ERRORS, Bin, Calibration, Diagnosis, Kind, Matches
from detcore.evaluation.metrics import PRCurve, pr_curve
from detcore.evaluation.mistakes import Mistake, mistakes
from detcore.evaluation.operating import ScoreCurves, score_curves
from detcore.report.comparing import Comparison, compare
from detcore.report.measured import Measured

SIZES = (0.0, 16.0, 32.0, 64.0, 96.0, 192.0, math.inf)
"""Bounds of an object's side (the root of its area) in pixels; COCO's small, medium and large end at 32 and 96."""
ASPECTS = (0.0, 1 / 3, 2 / 3, 3 / 2, 3.0, math.inf)
"""Bounds of width / height."""
ELONGATIONS = (1.0, 3 / 2, 3.0, 6.0, math.inf)
"""Bounds of a rotated box's longer side / shorter side."""
_DRAWS = 1e8
"""Detections times bootstrap sets, at most: a set of all of COCO's val2017 takes as long as many of a small split."""


@dataclass(frozen=True, kw_only=True)
class KindFindings:
    """One kind of prediction.

    Attributes:
        kind: boxes, masks, keypoints or rotated.
        precision: AP, AP50 and AP75 in percent, with 95 % intervals.
        curve: precision over recall at IoU 0.5.
        scores: precision, recall and F1 over the score threshold at IoU 0.5; only of classes with objects.
        class_names: of the rows of `scores`.
        calibration: of the scores.
        tide: of each of TIDE's errors how many there are, and what AP50 would gain; None for keypoints.
        sizes, aspects: AP by the objects' size and shape.
    """

    kind: Kind
    precision: dict[str, Interval]
    curve: PRCurve
    scores: ScoreCurves
    class_names: tuple[str, ...]
    calibration: Calibration
    tide: dict[str, tuple[int, float]] | None
    sizes: tuple[Bin, ...]
    aspects: tuple[Bin, ...]

    def operating_point(self) -> dict[str, float]:
        """The threshold of the highest mean F1, and F1, precision and recall there: means over classes, from 0 to 1."""
        best = self.scores.best
        values = {name: float(getattr(self.scores, name)[:, best].mean()) for name in ("f1", "precision", "recall")}
        return {"score": float(self.scores.thresholds[best]), **values}


@dataclass(frozen=True, kw_only=True)
class ImageFindings:
    """What became of one image's objects, with detections from the operating point's score on.

    Attributes:
        place: among the truth's images.
        file_name, image_id: the truth's.
        found, false, missed: objects found, detections that are none, objects not found.
    """

    place: int
    file_name: str
    image_id: int
    found: int
    false: int
    missed: int

    @property
    def f1(self) -> float:
        """1 where there is nothing and nothing was seen."""
        errors = self.false + self.missed
        return 2 * self.found / (2 * self.found + errors) if self.found or errors else 1.0


@dataclass(frozen=True, kw_only=True)
class Findings:
    """All of a report.

    Attributes:
        measured: what it is about.
        kinds: of objects.
        min_score: the operating point of the first kind: the score that detections must have in what follows.
        confusion: (classes + 1, classes + 1) objects by their class and that of the detection; classes in the order of
            their ids, the last row and column are 'nothing'. None without objects.
        images: all of them, the worst first.
        mistakes: false detections from `min_score` on, the highest score first.
        comparison: with another model, or None.
        notes: what is missing and why.
    """

    measured: Measured
    kinds: tuple[KindFindings, ...]
    min_score: float
    confusion: NDArray[np.int64] | None
    images: tuple[ImageFindings, ...]
    mistakes: tuple[Mistake, ...]
    matches: Matches | None
    comparison: Comparison | None
    notes: tuple[str, ...]

    def confused(self, *, most: int = 20) -> list[tuple[str, str, int, float]]:
        """The pairs of classes that are confused most: true, taken for, how often, share of the true class."""
        if self.confusion is None:
            return []
        names = self.measured.truth.names_by_id
        between = self.confusion[:-1, :-1].copy()
        np.fill_diagonal(between, 0)
        totals = np.maximum(self.confusion[:-1].sum(axis=1), 1)
        order = np.argsort(-between, axis=None, kind="stable")[:most]
        pairs = zip(*np.unravel_index(order, between.shape), strict=True)
        return [
            (names[row], names[column], int(between[row, column]), float(between[row, column] / totals[row]))
            for row, column in pairs
            if between[row, column]
        ]


def find(
    measured: Measured, *, against: Measured | None = None, notes: Sequence[str] = (), sets: int = 1000
) -> Findings:
    """Everything that a report says.

    Args:
        measured: the model.
        against: another one on the same split, to compare with.
        notes: to be said in the report.
        sets: of the bootstrap, at most; fewer where there are very many detections.
    """
    told = list(notes)
    if measured.settings.protocol not in ("coco", "lvis"):
        told.append(
            f"Errors are counted by COCO's matching; the metrics are by the protocol {measured.settings.protocol}."
        )
    results = measured.results
    sets = sets if results is None else int(min(sets, max(100, _DRAWS / max(len(results.scores), 1))))
    diagnoses = [_diagnosis(measured, kind) for kind in measured.kinds]
    samples = {diagnosis.kind: resampled(diagnosis, sets=sets) for diagnosis in diagnoses}
    kinds = tuple(_kind_findings(diagnosis, samples[diagnosis.kind]) for diagnosis in diagnoses)
    comparison = None
    if against is not None:
        others = {kind: resampled(_diagnosis(against, kind), sets=sets) for kind in samples if kind in against.kinds}
        comparison = compare(measured, against, samples, others)
    if not diagnoses:
        return Findings(
            measured=measured, kinds=(), min_score=0.0, confusion=None, images=(), mistakes=(), matches=None,
            comparison=comparison, notes=tuple(told),
        )  # fmt: skip
    first, min_score = diagnoses[0], kinds[0].operating_point()["score"]
    matches = first.matches()
    false = [] if first.kind == "keypoints" else mistakes(first, matches, min_score=min_score)
    scores = first.results.scores
    return Findings(
        measured=measured,
        kinds=kinds,
        min_score=min_score,
        confusion=first.confusion(min_score=min_score),
        images=_images(first, matches, min_score),
        mistakes=tuple(sorted(false, key=lambda mistake: -scores[mistake.row])),
        matches=matches,
        comparison=comparison,
        notes=tuple(told),
    )


def _diagnosis(measured: Measured, kind: Kind) -> Diagnosis:
    assert measured.results is not None
    settings = measured.settings
    return Diagnosis(
        measured.truth,
        measured.results,
        kind=kind,
        sigmas=settings.oks_sigmas,
        federated=settings.protocol == "lvis" and kind in ("boxes", "masks"),
    )


def _kind_findings(diagnosis: Diagnosis, samples: Samples) -> KindFindings:
    judged = diagnosis.judged(diagnosis.matches())
    scores = score_curves(judged)
    names = diagnosis.truth.names_by_id
    tide = None
    if diagnosis.kind != "keypoints":
        _, counts, gains = diagnosis.tide()
        tide = {name: (counts[name], gains[name]) for name in TIDE_ERRORS}
    shapes = ELONGATIONS if diagnosis.kind == "rotated" else ASPECTS
    return KindFindings(
        kind=diagnosis.kind,
        precision=samples.intervals(),
        curve=pr_curve(judged, names),
        scores=scores,
        class_names=tuple(names[index] for index in scores.classes.tolist()),
        calibration=diagnosis.calibration(),
        tide=tide,
        sizes=tuple(diagnosis.by_size(SIZES)),
        aspects=tuple(diagnosis.by_aspect(shapes)),
    )


def _images(diagnosis: Diagnosis, matches: Matches, min_score: float) -> tuple[ImageFindings, ...]:
    """The worst first: where most is wrong, and most of what there is."""
    results, coco = diagnosis.results, diagnosis.truth.coco
    place = {image["id"]: index for index, image in enumerate(coco["images"])}
    kept = results.scores[matches.rows] >= min_score
    images = np.array([place[image] for image in results.image_ids[matches.rows[kept]].tolist()], dtype=np.int64)
    sought = np.array([place[coco["annotations"][index]["image_id"]] for index in matches.sought.tolist()], np.int64)
    count = len(coco["images"])
    found = np.bincount(images[matches.hits[kept]], minlength=count)
    false = np.bincount(images, minlength=count) - found
    missed = np.bincount(sought, minlength=count) - found
    rows = [
        ImageFindings(
            place=index,
            file_name=str(image.get("file_name", image["id"])),
            image_id=image["id"],
            found=int(found[index]),
            false=int(false[index]),
            missed=int(missed[index]),
        )
        for index, image in enumerate(coco["images"])
    ]
    return tuple(sorted(rows, key=lambda row: (-(row.false + row.missed) * (1 - row.f1), -row.found)))


def plain(value: Any) -> Any:
    """Dataclasses, arrays and numbers that JSON does not have as it has them; None for what is no number."""
    match value:
        case Interval() | Bin() | Calibration():
            return plain(asdict(value))
        case np.ndarray():
            return plain(value.tolist())
        case dict():
            return {str(key): plain(one) for key, one in value.items()}
        case list() | tuple():
            return [plain(one) for one in value]
        case float() if not math.isfinite(value):
            return None
        case np.generic():
            return plain(value.item())
    return value
