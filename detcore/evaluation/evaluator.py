"""Detections in, metrics out."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from detcore.config import EvaluationConfig
from detcore.evaluation.hierarchy import Hierarchy
from detcore.evaluation.images import BatchInImages
from detcore.evaluation.instances import (
    Boxes,
    InstanceKind,
    Instances,
    Keypoints,
    MaskBoundaries,
    Masks,
    Proposals,
    RotatedBoxes,
)
from detcore.evaluation.kept_maps import KeptMaps, MapPair, panoptic_pair, semantic_pair
from detcore.evaluation.metrics import Outcome, PRCurve
from detcore.evaluation.panoptic import PanopticMaps, predicted_segments
from detcore.evaluation.results import ImageDetections, Results
from detcore.evaluation.semantic import SemanticMaps
from detcore.evaluation.truth import GroundTruth
from detcore.ops import PanopticLimits
from detcore.structures.batch import Batch, Detections

State = tuple[list[int], list[Any]]
"""What an evaluator holds: ids of images, and of each of its parts the state. Numpy, bytes and plain values."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcome, in percent as published.

    Attributes:
        metrics: by kind of prediction. Boxes: box_ap, box_ap50, box_ap75, box_ap_small, box_ap_medium, box_ap_large,
            box_ar100; masks, their boundaries and rotated boxes: the same for mask_, mask_boundary_ and rotated_;
            keypoints: keypoint_ap, keypoint_ap50, keypoint_ap75, keypoint_ap_medium, keypoint_ap_large, keypoint_ar;
            semantic maps: miou, fwiou, macc, pacc, boundary_iou; panoptic maps: pq, sq, rq, and these for _things and
            _stuff; proposals: proposal_ar100, proposal_ar1000, and these for _small, _medium, _large. A size of which
            there is no object is left out. By LVIS's protocol boxes and masks have _ap_rare, _ap_common and
            _ap_frequent, and _ar300 for _ar100. By Pascal VOC's, boxes have box_ap50, its own figure, the same at other
            IoUs in box_ap and box_ap75, box_ar and box_ar50; by that of Open Images, box_ap50 and box_ar50.
        per_class: class name -> metrics; without classes that have no object. With operating points box_f1, the highest
            at IoU 0.5, box_f1_precision and box_f1_recall there, and box_f1_score, the score that detections must have
            for it, from 0 to 1; for masks, keypoints and rotated boxes likewise.
        curves: precision over recall at IoU 0.5 by prefix: box, mask, keypoint, rotated.
        results: all detections as columns, by image id, then falling score; None where the model detects no objects.
        confusion: pixels by true and by predicted class of the semantic maps, (classes, classes), or None.
        maps: by image id the true and the predicted panoptic map, or the semantic ones where there are none; of the
            images alone that the evaluator was told to keep them of.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    curves: dict[str, PRCurve]
    results: Results | None
    maps: Mapping[int, MapPair]
    confusion: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, outcomes: Mapping[str, Outcome], *, results: Results | None, maps: Mapping[int, MapPair]) -> Self:
        """The outcomes of all kinds, by prefix, as one."""
        per_class: dict[str, dict[str, float]] = {}
        for outcome in outcomes.values():
            for name, table in outcome.per_class.items():
                per_class.setdefault(name, {}).update(table)
        return cls(
            metrics={name: value for outcome in outcomes.values() for name, value in outcome.metrics.items()},
            per_class=per_class,
            curves={prefix: outcome.curve for prefix, outcome in outcomes.items() if outcome.curve is not None},
            results=results,
            maps=maps,
            confusion=next((o.confusion for o in outcomes.values() if o.confusion is not None), None),
        )

    @cached_property
    def detections(self) -> list[dict[str, Any]]:
        """COCO's results list, with all that the model gives of each object."""
        return [] if self.results is None else self.results.rows()


class Part(Protocol):
    """What the evaluator is made of: it collects batches, can be sent to another rank, and gives metrics."""

    def add(self, found: BatchInImages) -> None: ...

    def state(self) -> Any: ...

    def merge(self, states: Iterable[Any]) -> None: ...

    def compute(self) -> dict[str, Outcome]: ...


class Evaluator:
    """Collects detections of a split, image by image, and compares them with its ground truth.

    The outcome depends neither on the order of images, nor on how they were batched or divided over ranks. On several
    ranks: `evaluator.merge(states)` with the `state()` of all of them, gathered by any means, then `compute()`.

    Args:
        truth: what there is to be found.
        predicts: the kinds of prediction that the model gives. Compared are those that the truth has, too.
        settings: how.
        panoptic_limits: what becomes a segment of a predicted panoptic map.
        keep_maps_of: samples whose maps are to be looked at afterwards.
        operating_points: also find the score at which each class has its best F1, which takes as long as the rest.

    Attributes:
        kinds: what is compared.

    Raises:
        ValueError: if the truth has none of the kinds, or the settings do not fit it.
    """

    def __init__(
        self,
        truth: GroundTruth,
        *,
        predicts: Sequence[str] = ("boxes",),
        settings: EvaluationConfig = EvaluationConfig(),  # noqa: B008 (it is frozen)
        panoptic_limits: PanopticLimits = PanopticLimits(),  # noqa: B008
        keep_maps_of: Collection[int] = (),
        operating_points: bool = False,
    ) -> None:
        if settings.protocol == "lvis":
            truth.expect_federated()
        lacks = {kind: truth.lacks(kind) for kind in predicts}
        self.kinds = tuple(kind for kind, reason in lacks.items() if reason is None)
        if not self.kinds:
            reasons = "; ".join(f"{kind}: {reason}" for kind, reason in lacks.items())
            raise ValueError(f"the ground truth has nothing to compare the model's predictions with ({reasons})")
        self._images = truth.coco["images"]
        self._seen: set[int] = set()
        instances = _instance_kinds(self.kinds, truth, settings, operating_points)
        self._instances = Instances(truth, instances) if instances else None
        self._parts: list[Part] = [] if self._instances is None else [self._instances]
        compared = None
        if "semantic" in self.kinds and truth.semantic is not None:
            compared = partial(semantic_pair, truth=truth.semantic)
            self._parts.append(
                SemanticMaps(truth=truth.semantic, classes=truth.semantic_classes, boundary=settings.boundary_iou)
            )
        if "panoptic" in self.kinds and truth.panoptic is not None:
            combine = partial(predicted_segments, limits=panoptic_limits)
            compared = partial(panoptic_pair, truth=truth.panoptic, combine=combine)
            self._parts.append(
                PanopticMaps(truth=truth.panoptic, combine=combine, things=truth.classes, stuff=truth.semantic_classes)
            )
        self._maps = None
        if compared is not None and keep_maps_of:
            self._maps = KeptMaps(keep_maps_of, compared)
            self._parts.append(self._maps)

    def add(self, batch: Batch, detections: Detections) -> None:
        """Takes a batch's detections over into original image coordinates; objects that vanish there are dropped.

        Raises:
            ValueError: if an image comes twice, its size is not the ground truth's, or a kind is missing.
        """
        found = BatchInImages(batch, detections, self._images)
        self._see([image["id"] for image in found.images.values()])
        for part in self._parts:
            part.add(found)

    def add_image(self, found: ImageDetections) -> None:
        """Takes one image's objects, made by any means.

        Raises:
            ValueError: if the image comes twice, a label is not among the classes, or objects are not all that is
                compared.
        """
        if self._instances is None or len(self._parts) > 1:
            raise ValueError(f"{', '.join(self.kinds)} are compared: objects alone are not enough")
        self._see([found.image_id])
        self._instances.add_image(found)

    def state(self) -> State:
        """All that this evaluator holds, for `merge`."""
        return sorted(self._seen), [part.state() for part in self._parts]

    def merge(self, states: Iterable[State]) -> None:
        """Holds from now on what `states`, one a rank and this one's among them, hold together.

        Raises:
            ValueError: if two ranks evaluated the same image.
        """
        states = list(states)
        self._seen = set()
        for seen, _ in states:
            self._see(seen)
        for place, part in enumerate(self._parts):
            part.merge([parts[place] for _, parts in states])

    def compute(self) -> Evaluation:
        """The metrics.

        Raises:
            ValueError: if an image of the ground truth was not evaluated.
        """
        missing = [image["id"] for image in self._images if image["id"] not in self._seen]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self._images)} images were not evaluated, the first {missing[:5]}"
            )
        return Evaluation.of(
            {prefix: outcome for part in self._parts for prefix, outcome in part.compute().items()},
            results=None if self._instances is None else self._instances.results(),
            maps={} if self._maps is None else self._maps.by_image,
        )

    def _see(self, image_ids: Iterable[int]) -> None:
        for image_id in image_ids:
            if image_id in self._seen:
                raise ValueError(f"image {image_id} was evaluated twice")
            self._seen.add(image_id)


def evaluate_results(
    truth: GroundTruth,
    results: Results,
    *,
    kinds: Sequence[str],
    settings: EvaluationConfig = EvaluationConfig(),  # noqa: B008 (it is frozen)
    operating_points: bool = False,
) -> Evaluation:
    """Detected objects of all images at once. Of equal scores in an image the first row is the first.

    Args:
        results: rows by image id.
        kinds: what of them is compared: boxes, masks, keypoints, rotated, proposals. Other arguments as of `Evaluator`.

    Raises:
        ValueError: if the truth has not all of the kinds, or the settings do not fit it.
    """
    if settings.protocol == "lvis":
        truth.expect_federated()
    for kind in kinds:
        if (reason := truth.lacks(kind)) is not None:
            raise ValueError(f"the ground truth has nothing to compare {kind} with: {reason}")
    compared = _instance_kinds(kinds, truth, settings, operating_points)
    return Evaluation.of({kind.prefix: kind.compute(truth, results) for kind in compared}, results=results, maps={})


_INSTANCE_KINDS = ("boxes", "masks", "keypoints", "rotated", "proposals")


def _instance_kinds(
    kinds: Sequence[str], truth: GroundTruth, settings: EvaluationConfig, operating_points: bool
) -> list[InstanceKind]:
    """Of those of the kinds that objects have."""
    own = [_instance_kind(kind, truth, settings, operating_points) for kind in kinds if kind in _INSTANCE_KINDS]
    if settings.boundary_iou and "masks" in kinds:
        own.append(MaskBoundaries(operating_points=operating_points))
    return own


def _instance_kind(kind: str, truth: GroundTruth, settings: EvaluationConfig, operating_points: bool) -> InstanceKind:
    match kind:
        case "boxes":
            hierarchy = (
                None if settings.hierarchy is None else Hierarchy.read(settings.hierarchy, truth.coco["categories"])
            )
            return Boxes(protocol=settings.protocol, hierarchy=hierarchy, operating_points=operating_points)
        case "masks":
            return Masks(protocol=settings.protocol, operating_points=operating_points)
        case "rotated":
            return RotatedBoxes(protocol=settings.protocol, operating_points=operating_points)
        case "proposals":
            return Proposals()
        case "keypoints":
            return Keypoints(
                num_keypoints=truth.num_keypoints, sigmas=settings.oks_sigmas, operating_points=operating_points
            )
    raise ValueError(f"{kind!r} is no kind of prediction")
