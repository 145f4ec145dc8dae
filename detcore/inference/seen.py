"""A batch's detections in the pixels of its images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detcore.ops import paste_masks, paste_masks_rle, semantic_map
from detcore.structures.batch import Batch, Detections
from detcore.structures.boxes import larger_than
from detcore.structures.coordinates import boxes_to_original, keypoints_to_original, rotated_to_original

_MASK_THRESHOLD = 0.5
_NEVER = 2.0
"""A score that nothing has."""


def class_thresholds(
    labels: Sequence[str],
    *,
    score_threshold: float,
    class_scores: Mapping[str, float] | None = None,
    classes: Sequence[str] | None = None,
) -> Tensor:
    """(C,) float32, the score that a detection of each class needs at least.

    Args:
        labels: names by class.
        score_threshold: of the classes that are not in `class_scores`.
        class_scores: by name.
        classes: names of those that are wanted; None wants all.

    Raises:
        ValueError: a score beyond [0, 1], or a name that is no class.
    """
    for name, score in (("score_threshold", score_threshold), *(class_scores or {}).items()):
        if not 0.0 <= score <= 1.0:
            raise ValueError(f"{name} {score} is not between 0 and 1")
    for name in (*(class_scores or ()), *(classes or ())):
        if name not in labels:
            raise ValueError(f"class {name!r}: the model knows {', '.join(labels[:20])}{', …' if labels[20:] else ''}")
    wanted = labels if classes is None else classes
    scores = {name: score_threshold for name in wanted} | {
        name: score for name, score in (class_scores or {}).items() if name in wanted
    }
    return torch.tensor([scores.get(name, _NEVER) for name in labels])


class Seen:
    """A batch's detections in the pixels of its images, and which of them are kept.

    Args:
        batch: what the model saw.
        detections: of it.
        thresholds: (B, C), as `class_thresholds` gives them for each image.
    """

    def __init__(self, batch: Batch, detections: Detections, thresholds: Tensor) -> None:
        self.batch, self.detections = batch, detections
        self.boxes_xyxy = boxes_to_original(detections.boxes_xyxy, batch)
        enough = detections.scores >= thresholds.to(detections.scores).gather(1, detections.labels)
        self.kept = detections.valid & enough & larger_than(self.boxes_xyxy, 0.0)
        rotated, points = detections.boxes_xywha, detections.keypoints
        self.boxes_xywha = None if rotated is None else rotated_to_original(rotated, batch)
        self.keypoints = None if points is None else keypoints_to_original(points, batch)

    def semantic(self, row: int, image_size: tuple[int, int]) -> NDArray[np.integer] | None:
        """(height, width) classes of an image's pixels, where the model tells them."""
        if self.detections.semantic is None:
            return None
        classes: NDArray[np.integer] = (
            semantic_map(self.detections.semantic, self.batch, row, image_size=image_size).cpu().numpy()
        )
        return classes

    def masks(self, row: int, image_size: tuple[int, int]) -> NDArray[np.bool_] | None:
        """(n, height, width) of the detections that are kept, where the model makes any."""
        if self.detections.masks is None:
            return None
        keep = self.kept[row]
        boxes = self.boxes_xyxy[row][keep].float()
        pasted = paste_masks(self.detections.masks[row][keep], boxes, image_size, _MASK_THRESHOLD)
        masks: NDArray[np.bool_] = pasted.cpu().numpy()
        return masks

    def mask_rles(self, row: int, image_size: tuple[int, int]) -> tuple[dict[str, Any], ...] | None:
        """The same as COCO's compressed run lengths, without masks of the whole image between."""
        if self.detections.masks is None:
            return None
        keep = self.kept[row]
        boxes = self.boxes_xyxy[row][keep].float()
        rles = paste_masks_rle(self.detections.masks[row][keep], boxes, image_size, _MASK_THRESHOLD)
        return tuple({"size": rle["size"], "counts": rle["counts"].decode("ascii")} for rle in rles)
