"""Why detections are not better: what each of them is, which classes are confused, what each kind of error costs.

hotcoco's analyses where it has them; matching is COCO's throughout, or LVIS's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.coco import IOU_THRESHOLDS, IouType, load_results
from detcore.evaluation.judged import Judged
from detcore.evaluation.results import Results
from detcore.evaluation.rotated import upright_as_rotated
from detcore.evaluation.truth import GroundTruth

try:
    import hotcoco
except ImportError:
    hotcoco = None  # type: ignore[assignment]

Kind = Literal["boxes", "masks", "keypoints", "rotated"]
_LARGEST = 1e10
"""COCO's bound of an area that has none."""
_IOU_TYPES: dict[Kind, IouType | Literal["obb"]] = {
    "boxes": "bbox",
    "masks": "segm",
    "keypoints": "keypoints",
    "rotated": "obb",
}
TIDE_ERRORS = ("Cls", "Loc", "Both", "Dupe", "Bkg", "Miss")
"""Wrong class, badly placed, both, found twice, nothing there, not found (Bolya et al., arXiv:2008.08115)."""


@dataclass(frozen=True, kw_only=True)
class Matches:
    """The detections that count, at one overlap.

    Attributes:
        rows: (n,) int64, of the results, rising.
        hits: (n,) bool, it found an object that no better one had found.
        objects: (n,) int64, the place among the annotations of what it found, or -1.
        sought: (m,) int64, places of the annotations that were to be found.
    """

    rows: NDArray[np.int64]
    hits: NDArray[np.bool_]
    objects: NDArray[np.int64]
    sought: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Objects and detections of which something lies in a range.

    Attributes:
        low, high: of the range.
        objects: how many were to be found.
        ap, ap50, ar: in percent; None where there is no object.
    """

    low: float
    high: float
    objects: int
    ap: float | None
    ap50: float | None
    ar: float | None


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Whether a score is the chance to be right.

    Attributes:
        error: the mean distance of score and precision, weighted by the detections (expected calibration error).
        largest: the largest such distance of a bin.
        edges: (bins + 1,) of the scores.
        scores, precision: (bins,) means of each; NaN in an empty bin.
        counts: (bins,) detections.
    """

    error: float
    largest: float
    edges: list[float]
    scores: list[float]
    precision: list[float]
    counts: list[int]


class Diagnosis:
    """The analyses of one kind of prediction.

    Args:
        truth: what was to be found.
        results: what was.
        kind: boxes, masks, keypoints or rotated.
        sigmas: of each keypoint, for its object similarity; None takes those of COCO's 17.
        federated: matched as LVIS does.

    Raises:
        ValueError: hotcoco is not installed.
    """

    def __init__(
        self,
        truth: GroundTruth,
        results: Results,
        *,
        kind: Kind = "boxes",
        sigmas: Sequence[float] | None = None,
        federated: bool = False,
    ) -> None:
        if hotcoco is None:
            raise ValueError("the analysis of detections needs hotcoco: pip install hotcoco")
        self.truth, self.results, self.kind = truth, results, kind
        self._sigmas, self._federated = sigmas, federated
        self._place = {a["id"]: place for place, a in enumerate(truth.coco["annotations"])}

    @cached_property
    def evaluation(self) -> Any:
        """hotcoco's, matched."""
        evaluation = self._evaluation(self._loaded, self._found)
        evaluation.evaluate()
        return evaluation

    @cached_property
    def _loaded(self) -> Any:
        loaded = self.truth.loaded
        if self.kind == "rotated":
            turned = [{**a, "obb": _turned(upright_as_rotated(a))} for a in loaded.dataset["annotations"]]
            return hotcoco.COCO({**loaded.dataset, "annotations": turned})
        return loaded.plain

    @property
    def _found(self) -> Any:
        if self.kind != "rotated":
            return load_results(self._loaded, self.results, _IOU_TYPES[self.kind])  # type: ignore[arg-type]
        rows = self.results.rows()
        return self._loaded.load_res([{**row, "obb": _turned(row["bbox_rotated"])} for row in rows])

    def _evaluation(self, truth: Any, found: Any) -> Any:
        evaluation = hotcoco.COCOeval(truth, found, _IOU_TYPES[self.kind], lvis_style=self._federated)
        if self._sigmas is not None:
            evaluation.params.kpt_oks_sigmas = list(self._sigmas)
        return evaluation

    def matches(self, iou: float = 0.5) -> Matches:
        """At one of COCO's thresholds."""
        # No label errors, which are dictionaries: `mistakes` has them.
        found = self.evaluation.image_diagnostics(iou_thr=iou, score_thr=np.inf)
        # By number, from 1, in no order; what does not count has no status.
        status, of = found["dt_status"], found["dt_match"]
        rows = np.sort(np.fromiter(status, np.int64, len(status)) - 1)
        objects = np.full(len(self.results.scores), -1, np.int64)
        objects[np.fromiter(of, np.int64, len(of)) - 1] = [self._place[annotation] for annotation in of.values()]
        return Matches(
            rows=rows,
            hits=objects[rows] >= 0,
            objects=objects[rows],
            sought=np.sort(np.array([self._place[annotation] for annotation in found["gt_status"]], dtype=np.int64)),
        )

    def all_matches(self) -> list[Matches]:
        """At each of COCO's ten thresholds."""
        return [self.matches(float(iou)) for iou in IOU_THRESHOLDS]

    def judged(self, matches: Matches) -> Judged:
        """What precision, recall and F1 of each class are counted from."""
        loaded = self.truth.loaded
        sought = [self.truth.coco["annotations"][place]["id"] for place in matches.sought.tolist()]
        return Judged(
            classes=loaded.classes_of(self.results.category_ids[matches.rows]),
            scores=self.results.scores[matches.rows],
            hits=matches.hits,
            num_objects=loaded.count(sought),
        )

    def confusion(self, *, min_score: float) -> NDArray[np.int64]:
        """(classes + 1, classes + 1) objects by their class and that of the detection there, at IoU 0.5.

        Classes are in the order of their ids. The last row is what was detected where nothing is, the last column what
        was not detected.
        """
        counts: NDArray[np.int64] = self.evaluation.confusion_matrix(min_score=min_score)["matrix"].astype(np.int64)
        return counts

    def tide(self) -> tuple[float, dict[str, int], dict[str, float]]:
        """AP at IoU 0.5; of each of `TIDE_ERRORS` how many there are, and how much higher AP would be without them.

        All in percent. The gains do not add up: of a detection's errors one is counted, and mending it shows others.
        """
        found = self.evaluation.tide_errors()
        gains = {name: 100.0 * max(found["delta_ap"][name], 0.0) for name in TIDE_ERRORS}
        return 100.0 * found["ap_base"], {name: found["counts"][name] for name in TIDE_ERRORS}, gains

    def calibration(self, *, bins: int = 10) -> Calibration:
        """Of the scores, at IoU 0.5."""
        found = self.evaluation.calibration(n_bins=bins)
        rows = found["bins"]
        return Calibration(
            error=found["ece"],
            largest=found["mce"],
            edges=[rows[0]["bin_lower"], *(row["bin_upper"] for row in rows)],
            scores=[row["avg_confidence"] if row["count"] else math.nan for row in rows],
            precision=[row["avg_accuracy"] if row["count"] else math.nan for row in rows],
            counts=[row["count"] for row in rows],
        )

    def by_size(self, sides: Sequence[float]) -> list[Bin]:
        """By the root of the area, which is the annotation's and, of a detection, that of the mask or box."""
        bins = self._in_ranges(self._loaded, self._found, [side**2 for side in sides])
        return [replace(one, low=sides[place], high=sides[place + 1]) for place, one in enumerate(bins)]

    def by_aspect(self, ratios: Sequence[float]) -> list[Bin]:
        """By width / height of the box; of a rotated one, of its longer side to the shorter."""
        truth = np.array([_sides(a, turned=self.kind == "rotated") for a in self.truth.coco["annotations"]]).reshape(
            -1, 2
        )
        boxes = self.results.boxes_xywha if self.kind == "rotated" else self.results.boxes_xywh()
        assert boxes is not None
        found = boxes[:, 2:4]
        if self.kind == "rotated":
            truth, found = np.sort(truth, axis=1)[:, ::-1], np.sort(found, axis=1)[:, ::-1]
        dataset = self._loaded.dataset
        rows = [{**a, "area": ratio} for a, ratio in zip(dataset["annotations"], _ratio(truth).tolist(), strict=True)]
        loaded, detected = hotcoco.COCO({**dataset, "annotations": rows}), self._found
        if len(found):
            detected.update_anns(ids=np.arange(1, len(found) + 1), area=_ratio(found))
        return self._in_ranges(loaded, detected, ratios)

    def _in_ranges(self, truth: Any, found: Any, edges: Sequence[float]) -> list[Bin]:
        """By what truth and detections have for their area."""
        evaluation = self._evaluation(truth, found)
        ranges = list(pairwise(edges))
        evaluation.params.area_rng = [[0.0, _LARGEST], *([low, min(high, _LARGEST)] for low, high in ranges)]
        evaluation.params.area_rng_lbl = ["all", *map(str, range(len(ranges)))]
        evaluation.evaluate()
        evaluation.accumulate()
        precision, recall = (evaluation.eval[name][..., 1:, -1] for name in ("precision", "recall"))
        areas = [a["area"] for a in truth.dataset["annotations"] if not a.get("iscrowd")]
        counts = np.histogram(areas, edges)[0]
        return [
            Bin(
                low=low,
                high=high,
                objects=int(counts[place]),
                ap=_mean(precision[..., place]),
                ap50=_mean(precision[:1, ..., place]),
                ar=_mean(recall[..., place]),
            )
            for place, (low, high) in enumerate(ranges)
        ]


def _mean(values: NDArray[np.float64]) -> float | None:
    defined = values[values > -1.0]
    return 100.0 * float(defined.mean()) if defined.size else None


def _ratio(sides: NDArray[np.float64]) -> NDArray[np.float64]:
    width, height = np.maximum(sides, 1e-3).T
    ratio: NDArray[np.float64] = width / height
    return ratio


def _sides(annotation: dict[str, Any], *, turned: bool) -> list[float]:
    return upright_as_rotated(annotation)[2:4] if turned else annotation["bbox"][2:4]


def _turned(box_xywha: Sequence[float]) -> list[float]:
    """As hotcoco takes it: in radians, clockwise."""
    return [*box_xywha[:4], -math.radians(box_xywha[4])]
