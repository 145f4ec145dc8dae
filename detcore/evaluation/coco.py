"""COCO matching: hotcoco where it is installed, pycocotools in its stead.

The only importer of hotcoco in this room besides `diagnosis`. Both follow the COCO evaluation (Lin et al., "Microsoft
COCO", ECCV 2014, and its published evaluation code) and give the same arrays to the last digit, which the tests hold.
"""

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.judged import Judged
from detcore.evaluation.results import Results

try:
    import hotcoco
except ImportError:
    hotcoco = None  # type: ignore[assignment]

IouType = Literal["bbox", "segm", "keypoints"]

AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""COCO's ranges of an object's area in square pixels, both ends included."""
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Accumulated:
    """COCO's arrays; -1 where there is nothing to find.

    Attributes:
        precision: (10 IoU thresholds .50:.05:.95, 101 recalls 0:.01:1, classes, areas, limits of detections) float64.
        recall: (10, classes, areas, limits), the highest recall reached.
        areas: names of the areas: all, small, medium, large; keypoints have no small ones.
        limits: detections of a class in an image: 1, 10, 100; for keypoints 20. LVIS: of all classes, 300.
        judged: detections at IoU 0.5, if asked for.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    areas: tuple[str, ...] = tuple(AREAS)
    limits: tuple[int, ...] = (1, 10, 100)
    judged: Judged | None = None


class LoadedTruth:
    """A COCO ground truth, loaded into hotcoco once for all evaluations of it. The dictionary is left unchanged."""

    def __init__(self, dataset: dict[str, Any]) -> None:
        self.dataset = dataset

    @cached_property
    def plain(self) -> Any:
        return hotcoco.COCO(self.dataset)

    def run_lengths(self, annotation_ids: Iterable[int]) -> list[dict[str, Any]]:
        """The masks of some annotations."""
        return [self.plain.ann_to_rle(annotation) for annotation in self.plain.load_anns(list(annotation_ids))]

    @cached_property
    def groups(self) -> Any:
        """With crowd regions as Open Images' groups, and without what hotcoco would take for a hierarchy."""
        categories = [{"id": c["id"], "name": c["name"]} for c in self.dataset["categories"]]
        annotations = [{**a, "iscrowd": 0, "is_group_of": bool(a.get("iscrowd"))} for a in self.dataset["annotations"]]
        return hotcoco.COCO({**self.dataset, "annotations": annotations, "categories": categories})

    @cached_property
    def category_ids(self) -> NDArray[np.int64]:
        """In the order of COCO's arrays: rising."""
        return np.sort(np.array([c["id"] for c in self.dataset["categories"]], dtype=np.int64))

    def classes_of(self, category_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Their places in COCO's arrays."""
        return np.searchsorted(self.category_ids, category_ids)

    def count(self, annotation_ids: Iterable[int]) -> NDArray[np.int64]:
        """How many of these annotations each class has, in the order of COCO's arrays."""
        category = {a["id"]: a["category_id"] for a in self.dataset["annotations"]}
        own = np.array([category[key] for key in annotation_ids], dtype=np.int64)
        return np.bincount(self.classes_of(own), minlength=len(self.category_ids))


def accumulate(
    truth: LoadedTruth,
    results: Results,
    iou_type: IouType,
    *,
    sigmas: Sequence[float] | None = None,
    federated: bool = False,
    judged: bool = False,
) -> Accumulated:
    """Matches `results` with a COCO ground truth.

    Classes come in the order of their ids, as in COCO.

    Args:
        sigmas: of each keypoint, for its object similarity; None takes those of COCO's 17.
        federated: as LVIS does (arXiv:1908.03195): detections of classes that were not looked for in an image do not
            count, nor do surplus ones of those that were not annotated exhaustively; 300 an image.
        judged: also give which detections are true at IoU 0.5.

    Raises:
        ValueError: `federated` without hotcoco.
    """
    backend = accumulate_pycocotools if hotcoco is None else accumulate_hotcoco
    return backend(truth, results, iou_type, sigmas=sigmas, federated=federated, judged=judged)


def accumulate_hotcoco(
    truth: LoadedTruth,
    results: Results,
    iou_type: IouType,
    *,
    sigmas: Sequence[float] | None = None,
    federated: bool = False,
    judged: bool = False,
) -> Accumulated:
    # Polygons stay what they are: all cores draw them in each evaluation sooner than Python hands them over once.
    loaded = truth.plain
    evaluation = hotcoco.COCOeval(loaded, load_results(loaded, results, iou_type), iou_type, lvis_style=federated)
    accumulated = _accumulated(evaluation, iou_type, sigmas)
    if federated:
        accumulated = replace(accumulated, limits=(300,))
    return replace(accumulated, judged=_judged_by_hotcoco(evaluation, truth, results)) if judged else accumulated


def judged_as_open_images(truth: LoadedTruth, results: Results) -> Judged:
    """Boxes at IoU 0.5 as in the Open Images challenge (storage.googleapis.com/openimages/web/evaluation.html).

    A crowd region is a group of objects: detections that lie in it by half or more are together one true detection.
    Where images say which classes were looked for, detections of others do not count. Classes above others are as any:
    see `Hierarchy`.

    Raises:
        ValueError: without hotcoco.
    """
    if hotcoco is None:
        raise ValueError("engine.evaluation.protocol = open_images needs hotcoco: pip install hotcoco")
    results = _looked_for(truth.dataset, results)
    evaluation = hotcoco.COCOeval(truth.groups, load_results(truth.groups, results, "bbox"), "bbox", oid_style=True)
    evaluation.evaluate()
    return _judged_by_hotcoco(evaluation, truth, results)


def _looked_for(dataset: dict[str, Any], results: Results) -> Results:
    """The detections of classes that were looked for in their image; all where images do not say."""
    images = dataset["images"]
    if any("neg_category_ids" not in image for image in images):
        return results
    pairs = [(a["image_id"], a["category_id"]) for a in dataset["annotations"]]
    for image in images:
        verified = (*image["neg_category_ids"], *image["not_exhaustive_category_ids"])
        pairs += [(image["id"], category) for category in verified]
    above = 1 + max(category["id"] for category in dataset["categories"])
    known = np.array([image * above + category for image, category in pairs], dtype=np.int64)
    return results.where(np.isin(results.image_ids * above + results.category_ids, known))


def _judged_by_hotcoco(evaluation: Any, truth: LoadedTruth, results: Results) -> Judged:
    found = evaluation.image_diagnostics(iou_thr=0.5)
    status = found["dt_status"]  # by number, from 1, in no order; those that do not count are not in it
    numbers = np.fromiter(status, np.int64, len(status))
    hits = np.fromiter((value == "tp" for value in status.values()), np.bool_, len(status))
    order = np.argsort(numbers)
    rows = numbers[order] - 1
    return Judged(
        classes=truth.classes_of(results.category_ids[rows]),
        scores=results.scores[rows],
        hits=hits[order],
        num_objects=truth.count(found["gt_status"]),
    )


def load_results(truth: Any, results: Results, iou_type: IouType) -> Any:
    """Detections in hotcoco, as columns where it takes these: no dictionary of each."""
    if iou_type == "keypoints":
        return truth.load_res(_rows(results, iou_type))
    columns = (results.image_ids[:, None], results.boxes_xywh(), results.scores[:, None], results.category_ids[:, None])
    table = np.concatenate(columns, axis=1, dtype=np.float64)
    if iou_type == "bbox":
        return truth.load_res(table)
    rles = results.segmentations()
    found = truth.load_res(table, segmentation=rles)
    # The mask's area decides what is small, as for COCO's results of masks, which have no box.
    found.update_anns(ids=np.arange(1, len(rles) + 1), area=hotcoco.mask.area(rles))
    return found


def accumulate_pycocotools(
    truth: LoadedTruth,
    results: Results,
    iou_type: IouType,
    *,
    sigmas: Sequence[float] | None = None,
    federated: bool = False,
    judged: bool = False,
) -> Accumulated:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if federated:
        raise ValueError("engine.evaluation.protocol = lvis needs hotcoco: pip install hotcoco")

    dataset = {**truth.dataset, "annotations": as_pycocotools_takes(truth.dataset["annotations"], iou_type)}
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        loaded = COCO()
        loaded.dataset = dataset
        loaded.createIndex()
        rows = _rows(results, iou_type)
        if rows:
            found = loaded.loadRes(rows)
        else:  # loadRes looks at the first result
            found = COCO()
            found.dataset = {**dataset, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(loaded, found, iou_type)
        accumulated = _accumulated(evaluation, iou_type, sigmas)
    return replace(accumulated, judged=_judged_by_pycocotools(evaluation, truth, results)) if judged else accumulated


def _judged_by_pycocotools(evaluation: Any, truth: LoadedTruth, results: Results) -> Judged:
    """At its first IoU threshold, which is 0.5, and in objects of all sizes."""
    every = list(evaluation.params.areaRng[0])
    pairs = [pair for pair in evaluation.evalImgs if pair is not None and pair["aRng"] == every]
    rows = np.array([number - 1 for pair in pairs for number in pair["dtIds"]], dtype=np.int64)
    hits = np.concatenate([np.zeros(0), *(pair["dtMatches"][0] for pair in pairs)]) > 0
    counted = np.concatenate([np.zeros(0), *(pair["dtIgnore"][0] for pair in pairs)]) == 0
    classes = [truth.classes_of(np.full(int((pair["gtIgnore"] == 0).sum()), pair["category_id"])) for pair in pairs]
    return Judged(
        classes=truth.classes_of(results.category_ids[rows[counted]]),
        scores=results.scores[rows[counted]],
        hits=hits[counted],
        num_objects=np.bincount(np.concatenate(classes), minlength=len(truth.category_ids)),
    )


def _accumulated(evaluation: Any, iou_type: IouType, sigmas: Sequence[float] | None) -> Accumulated:
    if sigmas is not None:
        evaluation.params.kpt_oks_sigmas = np.asarray(sigmas, dtype=np.float64)
    evaluation.evaluate()
    evaluation.accumulate()
    arrays = evaluation.eval
    if iou_type == "keypoints":
        return Accumulated(arrays["precision"], arrays["recall"], areas=("all", "medium", "large"), limits=(20,))
    return Accumulated(arrays["precision"], arrays["recall"])


def _rows(results: Results, iou_type: IouType) -> list[dict[str, Any]]:
    match iou_type:
        case "bbox":
            return results.box_results()
        case "segm":
            return results.mask_results()
        case "keypoints":
            return results.keypoint_results()


def as_pycocotools_takes(annotations: Sequence[dict[str, Any]], iou_type: IouType) -> list[dict[str, Any]]:
    """Copies, for it writes into annotations, with what hotcoco does not need.

    Ids count from 1: pycocotools takes a match with annotation 0 for no match. Where there is no mask, the box is it.
    Where keypoints are compared, what has none is there to be ignored.
    """
    copies = []
    for number, annotation in enumerate(annotations, start=1):
        x, y, width, height = annotation["bbox"]
        copy = {"segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]], **annotation}
        if iou_type == "keypoints":
            copy = {"num_keypoints": 0, "keypoints": [], **copy}
        copies.append({**copy, "id": number})
    return copies
