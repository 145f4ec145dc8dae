"""Detections in, COCO metrics out."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detcore.evaluation.coco import Results, accumulate
from detcore.evaluation.metrics import PRCurve, by_class, headline, pr_curve
from detcore.ops import paste_masks_rle
from detcore.structures.batch import Batch, Detections
from detcore.structures.coordinates import boxes_to_original

_MASK_THRESHOLD = 0.5


@dataclass(frozen=True, kw_only=True)
class ImageDetections:
    """One image's detections in original pixels: numpy and bytes, to be carried between ranks by any means.

    Attributes:
        image_id: the ground truth's id.
        boxes_xyxy: (n, 4) float64.
        scores: (n,) float64.
        labels: (n,) int64, 0-based classes.
        rles: n compressed COCO run lengths, or None without masks.
    """

    image_id: int
    boxes_xyxy: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    rles: tuple[bytes, ...] | None = None

    def sorted(self) -> "ImageDetections":
        """By falling score; equal scores by box and label: an order that knows nothing of where they come from."""
        x1, y1, x2, y2 = self.boxes_xyxy.T
        order = np.lexsort((self.labels, y2, x2, y1, x1, -self.scores))
        return ImageDetections(
            image_id=self.image_id,
            boxes_xyxy=self.boxes_xyxy[order],
            scores=self.scores[order],
            labels=self.labels[order],
            rles=None if self.rles is None else tuple(self.rles[i] for i in order),
        )


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The outcome, in percent as published.

    Attributes:
        metrics: box_ap, box_ap50, box_ap75, box_ap_small, box_ap_medium, box_ap_large, box_ar100 and, with masks, the
            same for mask_. A size of which there is no object is left out.
        per_class: class name -> box_ap, box_ap50, box_ap75, box_ar100 (mask_…); without classes that have no object.
        pr_curve: of boxes, at IoU 0.5.
        mask_pr_curve: of masks, or None.
        results: all detections as columns, by image id, then falling score.
    """

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    pr_curve: PRCurve
    mask_pr_curve: PRCurve | None
    results: Results

    @cached_property
    def detections(self) -> list[dict[str, Any]]:
        """COCO's results list: boxes and, where there are any, masks."""
        rows = self.results.box_results()
        if self.results.rles is not None:
            for index, row in enumerate(rows):
                segmentation = self.results.segmentation(index)
                row["segmentation"] = {**segmentation, "counts": segmentation["counts"].decode("ascii")}
        return rows


class Evaluator:
    """Collects detections of a split, image by image, and compares them with its ground truth.

    The outcome depends neither on the order of images, nor on how they were batched or divided over ranks. On several
    ranks: `evaluator.merge(states)` with the `state()` of all of them, gathered by any means, then `compute()`.

    Args:
        ground_truth: a COCO data set. Its `images` are in the split's order (`Batch.sample_ids` index them) and have
            heights and widths; its `categories` are in the order of the model's classes.
        masks: whether masks are evaluated too.

    Raises:
        ValueError: if there is no object to be found, or objects without mask where masks are asked for.
    """

    def __init__(self, ground_truth: dict[str, Any], *, masks: bool) -> None:
        objects = [a for a in ground_truth["annotations"] if not a.get("iscrowd")]
        if not objects:
            raise ValueError("the ground truth to evaluate against has no object, so no AP")
        maskless = [a["id"] for a in objects if not a.get("segmentation")]
        if masks and maskless:
            raise ValueError(
                f"masks cannot be evaluated: {len(maskless)} of {len(objects)} objects have none, the first is "
                f"annotation {maskless[0]}; take a detector without masks"
            )
        self._ground_truth = ground_truth
        self._masks = masks
        self._images = ground_truth["images"]
        self._category_ids = np.array([c["id"] for c in ground_truth["categories"]], dtype=np.int64)
        self._by_image: dict[int, ImageDetections] = {}

    def add(self, batch: Batch, detections: Detections) -> None:
        """Takes a batch's detections over into original image coordinates, clipped there; what vanishes is dropped.

        Raises:
            ValueError: if an image comes twice, or its size is not the ground truth's, or masks are missing.
        """
        if self._masks and detections.masks is None:
            raise ValueError("masks are to be evaluated, but the model gives none")
        boxes = boxes_to_original(detections.boxes_xyxy, batch).cpu()
        scores, labels = detections.scores.double().cpu(), detections.labels.cpu()
        kept = detections.valid.cpu() & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        sizes = batch.original_sizes.tolist()
        for row, (sample, real) in enumerate(zip(batch.sample_ids.tolist(), batch.real.tolist(), strict=True)):
            if not real:
                continue
            image, (height, width), keep = self._images[sample], sizes[row], kept[row]
            if (image["height"], image["width"]) != (height, width):
                raise ValueError(
                    f"image {image['id']} is {width} x {height} pixels, its ground truth says "
                    f"{image['width']} x {image['height']}"
                )
            rles = None
            if self._masks and detections.masks is not None:
                masks = detections.masks[row][keep.to(detections.masks.device)]
                encoded = paste_masks_rle(masks, boxes[row][keep].float(), (height, width), _MASK_THRESHOLD)
                rles = tuple(rle["counts"] for rle in encoded)
            self.add_image(
                ImageDetections(
                    image_id=image["id"],
                    boxes_xyxy=boxes[row][keep].numpy(),
                    scores=scores[row][keep].numpy(),
                    labels=labels[row][keep].numpy(),
                    rles=rles,
                )
            )

    def add_image(self, found: ImageDetections) -> None:
        """Takes one image's detections.

        Raises:
            ValueError: if the image comes twice, or a label is not among the classes.
        """
        classes = len(self._category_ids)
        if found.image_id in self._by_image:
            raise ValueError(f"image {found.image_id} was evaluated twice")
        if found.labels.size and not 0 <= found.labels.min() <= found.labels.max() < classes:
            raise ValueError(
                f"image {found.image_id}: labels {found.labels.min()} to {found.labels.max()}, "
                f"the ground truth has {classes} classes"
            )
        self._by_image[found.image_id] = found.sorted()

    def state(self) -> list[ImageDetections]:
        """All that this evaluator holds, for `merge`."""
        return list(self._by_image.values())

    def merge(self, states: Iterable[Iterable[ImageDetections]]) -> None:
        """Holds from now on what `states`, one a rank and this one's among them, hold together.

        Raises:
            ValueError: if two ranks evaluated the same image.
        """
        everything = [found for state in states for found in state]
        self._by_image = {}
        for found in everything:
            self.add_image(found)

    def compute(self) -> Evaluation:
        """The metrics.

        Raises:
            ValueError: if an image of the ground truth was not evaluated.
        """
        missing = [image["id"] for image in self._images if image["id"] not in self._by_image]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(self._images)} images were not evaluated, the first {missing[:5]}"
            )
        results = self._results()
        names = [c["name"] for c in sorted(self._ground_truth["categories"], key=lambda c: c["id"])]
        arrays = accumulate(self._ground_truth, results, "bbox")
        metrics = headline(arrays, "box")
        per_class = by_class(arrays, names, "box")
        mask_curve = None
        if self._masks:
            mask_arrays = accumulate(self._ground_truth, results, "segm")
            metrics |= headline(mask_arrays, "mask")
            for name, table in by_class(mask_arrays, names, "mask").items():
                per_class[name] |= table
            mask_curve = pr_curve(mask_arrays, names)
        return Evaluation(
            metrics=metrics,
            per_class=per_class,
            pr_curve=pr_curve(arrays, names),
            mask_pr_curve=mask_curve,
            results=results,
        )

    def _results(self) -> Results:
        images = sorted(self._images, key=lambda image: image["id"])
        found = [self._by_image[image["id"]] for image in images]
        counts = [len(image.scores) for image in found]
        return Results(
            image_ids=np.repeat(np.array([image["id"] for image in images], dtype=np.int64), counts),
            category_ids=self._category_ids[np.concatenate([image.labels for image in found])],
            boxes_xyxy=np.concatenate([image.boxes_xyxy for image in found]),
            scores=np.concatenate([image.scores for image in found]),
            sizes=np.repeat(np.array([(i["height"], i["width"]) for i in images], dtype=np.int64), counts, axis=0),
            rles=[rle for image in found for rle in image.rles or ()] if self._masks else None,
        )
