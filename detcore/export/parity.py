"""Whether two forms of a detector see the same."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from detcore.structures.batch import Detections

BOX_PIXELS, SCORE, PROBABILITY = 0.5, 1e-3, 1e-2
NUDGES = 8


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Between a detector and its exported form, on some images.

    Attributes:
        images, detections: how many were compared.
        box_pixels: the largest between a coordinate of matched boxes, or of their keypoints; in the network's input.
        score: the largest between their scores.
        probability: the largest between values of their masks, or of the classes of pixels.
        missing: detections without a counterpart on the other side.
        near_ties: images of which the same is seen only where the detector's pixels are changed by a rounding's worth.
    """

    images: int = 0
    detections: int = 0
    box_pixels: float = 0.0
    score: float = 0.0
    probability: float = 0.0
    missing: int = 0
    near_ties: int = 0

    def __add__(self, other: "Difference") -> "Difference":
        return Difference(
            images=self.images + other.images,
            detections=self.detections + other.detections,
            box_pixels=max(self.box_pixels, other.box_pixels),
            score=max(self.score, other.score),
            probability=max(self.probability, other.probability),
            missing=self.missing + other.missing,
            near_ties=self.near_ties + other.near_ties,
        )

    @property
    def small(self) -> bool:
        """Whether the one may stand for the other."""
        return (
            not self.missing
            and self.box_pixels <= BOX_PIXELS
            and self.score <= SCORE
            and self.probability <= PROBABILITY
        )

    def __str__(self) -> str:
        shown = f"{self.images} images, {self.detections} detections: boxes differ by {self.box_pixels:.3g} px at most"
        shown += f", scores by {self.score:.2g}, mask probabilities by {self.probability:.2g}"
        shown += f", {self.missing} without a counterpart" if self.missing else ""
        return shown + (f"; a near tie in {self.near_ties} of the images" if self.near_ties else "")


def compare(ours: Detections, theirs: Detections) -> Difference:
    """Two detectors' output for the same batch.

    Each detection is matched with the one of its class whose box and score are nearest. One whose score is within
    `SCORE` of its image's lowest may lack: it is at the edge of being kept.
    """
    total = Difference()
    for row in range(ours.scores.shape[0]):
        total += _compare_image(ours, theirs, row)
    if ours.semantic is not None and theirs.semantic is not None:
        first, second = ours.semantic.softmax(dim=1), theirs.semantic.softmax(dim=1)
        total += Difference(probability=float((first - second).abs().max()))
    return total


def compare_up_to_ties(ours: Detections, theirs: Detections, nudged: Callable[[int], Detections]) -> Difference:
    """As `compare`, where scores may nearly tie: then roundings decide which of two boxes suppresses the other.

    So of an image of which they do not see the same, theirs may be what the detector sees of it nudged.

    Args:
        nudged: what the detector of `ours` sees of the same batch with its pixels changed by a rounding's worth, for
            each of NUDGES numbers.
    """
    total, again = Difference(), dict[int, Detections]()
    for row in range(ours.scores.shape[0]):
        mine, other = _row_of(ours, row), _row_of(theirs, row)
        difference = compare(mine, other)
        for number in range(0 if difference.small else NUDGES):
            if number not in again:
                again[number] = nudged(number)
            tied = compare(_row_of(again[number], row), other)
            if tied.small:
                difference = replace(tied, near_ties=1)
                break
        total += difference
    return total


def _row_of(found: Detections, row: int) -> Detections:
    """One image's, as a batch."""
    return found.map(lambda tensor: tensor[row : row + 1])


def _compare_image(ours: Detections, theirs: Detections, row: int) -> Difference:
    mine, other = ours.valid[row], theirs.valid[row]
    scores, their_scores = ours.scores[row][mine], theirs.scores[row][other]
    if not len(scores) or not len(their_scores):
        return Difference(images=1, missing=len(scores) + len(their_scores))
    pixels = (ours.boxes_xyxy[row][mine][:, None] - theirs.boxes_xyxy[row][other]).abs().amax(dim=-1)
    gap = (scores[:, None] - their_scores).abs()
    cost = pixels / BOX_PIXELS + gap / SCORE
    cost = torch.where(ours.labels[row][mine][:, None] == theirs.labels[row][other], cost, torch.inf)
    best, match = cost.min(dim=1)
    close = (best < torch.inf) & (pixels.gather(1, match[:, None])[:, 0] <= 20 * BOX_PIXELS)
    floor = float(torch.minimum(scores.min(), their_scores.min())) + SCORE
    unmatched = torch.ones_like(their_scores, dtype=torch.bool)
    unmatched[match[close]] = False
    missing = int((~close & (scores > floor)).sum() + (unmatched & (their_scores > floor)).sum())
    if not close.any():
        return Difference(images=1, missing=missing)
    index, place = close.nonzero()[:, 0], match[close]
    moved = float(pixels[index, place].max())
    if ours.keypoints is not None and theirs.keypoints is not None:
        points = ours.keypoints[row][mine][index] - theirs.keypoints[row][other][place]
        moved = max(moved, float(points[..., :2].abs().max()))
    probability = 0.0
    if ours.masks is not None and theirs.masks is not None:
        probability = _largest(ours.masks[row][mine][index] - theirs.masks[row][other][place])
    return Difference(
        images=1,
        detections=len(index),
        box_pixels=moved,
        score=float(gap[index, place].max()),
        probability=probability,
        missing=missing,
    )


def _largest(values: Tensor) -> float:
    return float(values.abs().max())
