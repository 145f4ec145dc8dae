"""The two kinds of boxes a detector can work on, upright and rotated, and what it does with either."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from detcore import ops
from detcore.structures import boxes, rotated_boxes
from detcore.structures.batch import Targets

Coder = boxes.BoxCoder | rotated_boxes.RotatedBoxCoder


@dataclass(frozen=True, kw_only=True)
class BoxGeometry:
    """All that depends on the kind of boxes.

    Attributes:
        numbers: of a box.
        coder: makes a box coder; takes its `weights`.
        ground_truth: the boxes (B, M, numbers) of targets; ValueError where they have none of the kind.
        match: `ops.match_anchors`.
        nms: `ops.nms_padded`.
        pool: `ops.multilevel_roi_align`.
        clip: boxes (B, ..., numbers) cut to the content of their images, whose sizes are (B, 2).
        larger_than: boxes whose sides are all above a number of pixels.
        detected: `Detections`' fields, by name, for boxes (B, D, numbers) in images of given sizes (B, 2).
    """

    numbers: int
    coder: Callable[..., Coder]
    ground_truth: Callable[[Targets], Tensor]
    match: Callable[..., tuple[Tensor, Tensor]]
    nms: Callable[..., tuple[Tensor, Tensor]]
    pool: Callable[..., Tensor]
    clip: Callable[[Tensor, Tensor], Tensor]
    larger_than: Callable[[Tensor, float], Tensor]
    detected: Callable[[Tensor, Tensor], dict[str, Tensor]]


def _upright_ground_truth(targets: Targets) -> Tensor:
    return targets.boxes_xyxy


def _rotated_ground_truth(targets: Targets) -> Tensor:
    if targets.boxes_xywha is None:
        raise ValueError("these targets have no rotated boxes: train an upright detector, or use data with angles")
    return targets.boxes_xywha


def _upright_detected(boxes_xyxy: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
    return {"boxes_xyxy": boxes_xyxy}


def _rotated_detected(boxes_xywha: Tensor, image_sizes: Tensor) -> dict[str, Tensor]:
    around = boxes.clip(rotated_boxes.upright_around(boxes_xywha), image_sizes)
    return {"boxes_xyxy": around, "boxes_xywha": boxes_xywha}


UPRIGHT = BoxGeometry(
    numbers=4,
    coder=boxes.BoxCoder,
    ground_truth=_upright_ground_truth,
    match=ops.match_anchors,
    nms=ops.nms_padded,
    pool=ops.multilevel_roi_align,
    clip=boxes.clip,
    larger_than=boxes.larger_than,
    detected=_upright_detected,
)
ROTATED = BoxGeometry(
    numbers=5,
    coder=rotated_boxes.RotatedBoxCoder,
    ground_truth=_rotated_ground_truth,
    match=ops.match_anchors_rotated,
    nms=ops.nms_rotated_padded,
    pool=ops.multilevel_roi_align_rotated,
    clip=rotated_boxes.clip,
    larger_than=rotated_boxes.larger_than,
    detected=_rotated_detected,
)
