"""Detected objects: boxes, and what belongs to each of them."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from torch import Tensor

from detcore.config import EvaluationProtocol
from detcore.evaluation.boundary import accumulate_boundaries
from detcore.evaluation.coco import IouType, accumulate, judged_as_open_images
from detcore.evaluation.hierarchy import Hierarchy
from detcore.evaluation.images import BatchInImages
from detcore.evaluation.metrics import Outcome, average_precision, judged_precision
from detcore.evaluation.proposals import proposal_recall
from detcore.evaluation.results import ImageDetections, Results
from detcore.evaluation.rotated import accumulate_rotated
from detcore.evaluation.truth import GroundTruth
from detcore.evaluation.voc import voc_precision, whole_area
from detcore.ops import paste_masks_rle

_MASK_THRESHOLD = 0.5
_COCO_SIGMAS = np.array([26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]) / 1000
"""How far apart annotators put each of COCO's 17 keypoints, as a share of the object's size: its published values."""


class InstanceKind(Protocol):
    """One kind of prediction that detected objects have.

    Attributes:
        name: as a model's `predicts` has it.
        prefix: of its metrics.
    """

    name: str
    prefix: str

    def collect(self, found: BatchInImages, row: int, kept: Tensor) -> dict[str, Any]:
        """The columns that it adds to `ImageDetections`: of the detections (D,) bool that are kept of an image.

        Raises:
            ValueError: if the model gives none.
        """

    def compute(self, truth: GroundTruth, results: Results) -> Outcome:
        """Its metrics on all images."""


class Boxes:
    """Average precision of boxes by any of the protocols.

    Args:
        protocol: by which.
        hierarchy: of the classes, by the protocol of Open Images.
        operating_points: also the best F1 of each class.
    """

    name, prefix = "boxes", "box"

    def __init__(
        self,
        *,
        protocol: EvaluationProtocol = "coco",
        hierarchy: Hierarchy | None = None,
        operating_points: bool = False,
    ) -> None:
        self._protocol = protocol
        self._hierarchy = hierarchy
        self._operating_points = operating_points

    def collect(self, found: BatchInImages, row: int, kept: Tensor) -> dict[str, Any]:
        return {}  # every detection has a box

    def compute(self, truth: GroundTruth, results: Results) -> Outcome:
        match self._protocol:
            case "coco" | "lvis":
                return _precision_of_regions(self, truth, results, "bbox", self._protocol, self._operating_points)
            case "open_images":
                loaded = truth.loaded
                if self._hierarchy is not None:
                    loaded, results = self._hierarchy.expanded(truth.coco, results)
                return judged_precision(
                    [judged_as_open_images(loaded, results)],
                    truth.names_by_id,
                    prefix=self.prefix,
                    precision_of=whole_area,
                    operating_points=self._operating_points,
                )
            case "voc2007" | "voc2010":
                return voc_precision(truth, results, self._protocol, operating_points=self._operating_points)


class Masks:
    """Average precision of masks: LVIS's by its protocol, COCO's by any other.

    Args:
        protocol: by which.
        operating_points: also the best F1 of each class.
    """

    name, prefix = "masks", "mask"

    def __init__(self, *, protocol: EvaluationProtocol = "coco", operating_points: bool = False) -> None:
        self._protocol: Literal["coco", "lvis"] = "lvis" if protocol == "lvis" else "coco"
        self._operating_points = operating_points

    def collect(self, found: BatchInImages, row: int, kept: Tensor) -> dict[str, Any]:
        masks = found.required("masks")[row]
        boxes = found.boxes_xyxy[row][kept].float()
        encoded = paste_masks_rle(masks[kept.to(masks.device)], boxes, found.sizes[row], _MASK_THRESHOLD)
        return {"rles": tuple(rle["counts"] for rle in encoded)}

    def compute(self, truth: GroundTruth, results: Results) -> Outcome:
        return _precision_of_regions(self, truth, results, "segm", self._protocol, self._operating_points)


class MaskBoundaries:
    """COCO's average precision of masks by their boundaries; the masks are those of `Masks`.

    Args:
        operating_points: also the best F1 of each class.
    """

    name, prefix = "masks", "mask_boundary"

    def __init__(self, *, operating_points: bool = False) -> None:
        self._operating_points = operating_points

    def collect(self, found: BatchInImages, row: int, kept: Tensor) -> dict[str, Any]:
        return {}

    def compute(self, truth: GroundTruth, results: Results) -> Outcome:
        arrays = accumulate_boundaries(truth.coco, results, judged=self._operating_points)
        return average_precision(arrays, truth.names_by_id, prefix=self.prefix, recall="ar100")


def _precision_of_regions(
    kind: InstanceKind,
    truth: GroundTruth,
    results: Results,
    iou_type: IouType,
    protocol: Literal["coco", "lvis"],
    operating_points: bool,
) -> Outcome:
    federated = protocol == "lvis"
    arrays = accumulate(truth.loaded, results, iou_type, federated=federated, judged=operating_points)
    return average_precision(
        arrays,
        truth.names_by_id,
        prefix=kind.prefix,
        recall=f"ar{arrays.limits[-1]}",
        groups=truth.classes_by_frequency if federated else {},
    )


class Keypoints:
    """Average precision by object keypoint similarity (COCO's keypoint task).

    Args:
        num_keypoints: of an object.
        sigmas: of each keypoint, as a share of the object's size; None takes COCO's where there are 17.
        operating_points: also the best F1 of each class.

    Raises:
        ValueError: if there is not one sigma for each keypoint.
    """

    name, prefix = "keypoints", "keypoint"

    def __init__(
        self, *, num_keypoints: int, sigmas: Sequence[float] | None = None, operating_points: bool = False
    ) -> None:
        self._operating_points = operating_points
        self._sigmas = _COCO_SIGMAS if sigmas is None else np.asarray(sigmas, dtype=np.float64)
        if len(self._sigmas) != num_keypoints:
            whose = "COCO's sigmas are" if sigmas is None else "engine.evaluation.oks_sigmas is"
            raise ValueError(
                f"{whose} for {len(self._sigmas)} keypoints, the objects have {num_keypoints}: "
                "set engine.evaluation.oks_sigmas to one number for each"
            )

    def collect(self, found: BatchInImages, row: int, kept: Tensor) -> dict[str, Any]:
        return {"keypoints": found.keypoints[row][kept].numpy()}

    def compute(self, truth: GroundTruth, results: Results) -> Outcome:
        arrays = accumulate(
            truth.loaded, results, "keypoints", sigmas=self._sigmas.tolist(), judged=self._operating_points
        )
        return average_precision(arrays, truth.names_by_id, prefix=self.prefix, recall="ar")


class RotatedBoxes:
    """Average precision with the IoU of rotated boxes: Pascal VOC's, which is DOTA's, by its protocols, else COCO's.

    Args:
        protocol: by which.
        operating_points: also the best F1 of each class.
    """

    name, prefix = "rotated", "rotated"

    def __init__(self, *, protocol: EvaluationProtocol = "coco", operating_points: bool = False) -> None:
        self._protocol = protocol
        self._operating_points = operating_points

    def collect(self, found: BatchInImages, row: int, kept: Tensor) -> dict[str, Any]:
        return {"boxes_xywha": found.boxes_xywha[row][kept].numpy()}

    def compute(self, truth: GroundTruth, results: Results) -> Outcome:
        if self._protocol in ("voc2007", "voc2010"):
            return voc_precision(truth, results, self._protocol, rotated=True, operating_points=self._operating_points)
        arrays = accumulate_rotated(truth.coco, results, judged=self._operating_points)
        return average_precision(arrays, truth.names_by_id, prefix=self.prefix, recall="ar100")


class Proposals:
    name, prefix = "proposals", "proposal"

    def collect(self, found: BatchInImages, row: int, kept: Tensor) -> dict[str, Any]:
        return {}

    def compute(self, truth: GroundTruth, results: Results) -> Outcome:
        return Outcome(metrics=proposal_recall(truth.coco, results), per_class={})


class Instances:
    """The detected objects of all images, and the kinds of prediction that they have.

    Args:
        truth: what they are compared with.
        kinds: what is compared.
    """

    def __init__(self, truth: GroundTruth, kinds: Sequence[InstanceKind]) -> None:
        self._truth = truth
        self._kinds = kinds
        self._num_classes = len(truth.classes)
        self._by_image: dict[int, ImageDetections] = {}

    def add(self, found: BatchInImages) -> None:
        """Takes a batch's detections over, clipped to their images; what vanishes is dropped."""
        scores, labels = found.detections.scores.double().cpu(), found.detections.labels.cpu()
        for row in found.rows:
            kept = found.kept[row]
            columns = [kind.collect(found, row, kept) for kind in self._kinds]
            self.add_image(
                ImageDetections(
                    image_id=found.images[row]["id"],
                    boxes_xyxy=found.boxes_xyxy[row][kept].numpy(),
                    scores=scores[row][kept].numpy(),
                    labels=labels[row][kept].numpy(),
                    **{name: values for own in columns for name, values in own.items()},
                )
            )

    def add_image(self, found: ImageDetections) -> None:
        """Takes one image's detections. Raises ValueError if a label is not among the classes."""
        if found.labels.size and not 0 <= found.labels.min() <= found.labels.max() < self._num_classes:
            raise ValueError(
                f"image {found.image_id}: labels {found.labels.min()} to {found.labels.max()}, "
                f"the ground truth has {self._num_classes} classes"
            )
        self._by_image[found.image_id] = found.sorted()

    def state(self) -> list[ImageDetections]:
        return list(self._by_image.values())

    def merge(self, states: Iterable[list[ImageDetections]]) -> None:
        self._by_image = {found.image_id: found for state in states for found in state}

    def compute(self) -> dict[str, Outcome]:
        results = self.results()
        return {kind.prefix: kind.compute(self._truth, results) for kind in self._kinds}

    def results(self) -> Results:
        """All detections as columns, by image id, then falling score."""
        images = sorted(self._truth.coco["images"], key=lambda image: image["id"])
        found = [self._by_image[image["id"]] for image in images]
        counts = [len(image.scores) for image in found]
        category_ids = np.array([c["id"] for c in self._truth.coco["categories"]], dtype=np.int64)

        def column(name: str) -> Any:
            values = [getattr(image, name) for image in found]
            return None if any(value is None for value in values) else np.concatenate(values)

        masks = all(image.rles is not None for image in found)
        return Results(
            image_ids=np.repeat(np.array([image["id"] for image in images], dtype=np.int64), counts),
            category_ids=category_ids[column("labels")],
            boxes_xyxy=column("boxes_xyxy"),
            scores=column("scores"),
            sizes=np.repeat(np.array([(i["height"], i["width"]) for i in images], dtype=np.int64), counts, axis=0),
            rles=[rle for image in found for rle in image.rles or ()] if masks else None,
            keypoints=column("keypoints"),
            boxes_xywha=column("boxes_xywha"),
        )
