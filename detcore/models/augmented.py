"""Test-time augmentation: any detector looks at several views of an image, and what it sees in them is merged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from detcore.models.selection import DetectionLimits, select_detections
from detcore.structures.batch import Batch, Detections
from detcore.structures.boxes import clip, larger_than

MERGED = frozenset({"boxes", "masks", "keypoints"})
"""Kinds of predictions that views can be merged of."""


@dataclass(frozen=True)
class AugmentedBatch(Batch):
    """A batch and other views of its images. Detections are given in pixels of the batch.

    Attributes:
        views: the same images in the same rows, of other sizes or mirrored, as their `geometry` says.
        mirrored: which of the views are.
    """

    views: tuple[Batch, ...] = ()
    mirrored: tuple[bool, ...] = ()


class AugmentedDetector(nn.Module):
    """A detector as others are, for an `AugmentedBatch`.

    Boxes of all views are put together, and the best that do not overlap within a class stay. A detector that has
    `describe_boxes(batch, detections)` is then asked for masks and keypoints of these boxes in every view, and the
    answers' means are taken: of mask probabilities, of keypoints' places and of their scores. From any other, each
    detection keeps the mask and the keypoints of the view that it was found in.

    Args:
        model: any module with `detect(batch)`.
        limits: of the merged detections; None takes the model's own `limits`, else an IoU of 0.5 and 100 detections.
        mirrored_keypoints: for each keypoint which one it becomes in a mirror (left eye, right eye); needed where the
            model predicts keypoints and views are mirrored.

    Raises:
        ValueError: the model predicts something that cannot be merged.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        limits: DetectionLimits | None = None,
        mirrored_keypoints: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.predicts: tuple[str, ...] = getattr(model, "predicts", ("boxes",))
        unknown = sorted(set(self.predicts) - MERGED)
        if unknown:
            raise ValueError(
                f"test-time augmentation merges {', '.join(sorted(MERGED))}, but {type(model).__name__} predicts "
                f"{', '.join(unknown)}: predict without it"
            )
        self.model = model
        own = getattr(model, "limits", None)
        fallback = own or DetectionLimits(score_threshold=0.0, nms_threshold=0.5, max_detections=100)
        self.limits: DetectionLimits = limits or fallback
        order = None if mirrored_keypoints is None else torch.tensor(mirrored_keypoints)
        self.register_buffer("mirrored_keypoints", order, persistent=False)

    def detect(self, batch: AugmentedBatch) -> Detections:
        """What is seen in each image; the same whatever other images are in the batch.

        Raises:
            ValueError: there are mirrored views and keypoints, but not `mirrored_keypoints`.
        """
        views = list(zip(batch.views, batch.mirrored, strict=True))
        found = [self._in_batch(self.model.detect(view), view, batch, flip) for view, flip in views]  # type: ignore[operator]
        boxes = torch.cat([detections.boxes_xyxy for detections in found], dim=1)
        scores, labels, valid = (
            torch.cat([getattr(detections, name) for detections in found], dim=1)
            for name in ("scores", "labels", "valid")
        )
        merged, index = select_detections(
            boxes, scores, labels, valid & larger_than(boxes, 0.0), self.limits, image_sizes=batch.image_sizes
        )
        masks = keypoints = None
        if found[0].masks is not None or found[0].keypoints is not None:
            if hasattr(self.model, "describe_boxes"):
                found = [self._described(merged, view, batch, flip) for view, flip in views]
                masks, keypoints = (_mean([getattr(own, name) for own in found]) for name in ("masks", "keypoints"))
            else:
                masks, keypoints = (
                    _picked([getattr(own, name) for own in found], index, merged.valid)
                    for name in ("masks", "keypoints")
                )
        return replace(merged, masks=masks, keypoints=keypoints)

    def _described(self, merged: Detections, view: Batch, batch: Batch, flip: bool) -> Detections:
        """Masks and keypoints that a view shows of the merged boxes, as the batch would."""
        boxes = clip(_moved_boxes(merged.boxes_xyxy, _matrix(batch, view)), view.image_sizes)
        boxes = torch.where(merged.valid[..., None], boxes, 0.0).float()
        described = self.model.describe_boxes(view, replace(merged, boxes_xyxy=boxes))  # type: ignore[operator]
        return self._in_batch(described, view, batch, flip)

    def _in_batch(self, detections: Detections, view: Batch, batch: Batch, flip: bool) -> Detections:
        """A view's detections in pixels of the batch."""
        matrix = _matrix(view, batch)
        boxes = clip(_moved_boxes(detections.boxes_xyxy, matrix), batch.image_sizes)
        masks, keypoints = detections.masks, detections.keypoints
        if flip and masks is not None:
            masks = masks.flip(-1)
        if keypoints is not None:
            places = _moved_points(keypoints[..., :2].double(), matrix).to(keypoints.dtype)
            keypoints = torch.cat((places, keypoints[..., 2:]), dim=-1)
            if flip:
                keypoints = keypoints.index_select(2, self._mirror_order())
        return replace(detections, boxes_xyxy=boxes.float(), masks=masks, keypoints=keypoints)

    def _mirror_order(self) -> Tensor:
        order = self.mirrored_keypoints
        if order is None:
            raise ValueError(
                "views are mirrored and the model predicts keypoints: say which becomes which in a mirror "
                "(mirrored_keypoints), or do not mirror (flip=False)"
            )
        assert isinstance(order, Tensor)
        return order


def _matrix(source: Batch, target: Batch) -> Tensor:
    """(B, 3, 3) float64 from pixels of one view to another's; the identity for rows that are no image."""
    identity = torch.eye(3, dtype=torch.float64, device=source.geometry.device)
    real = source.real[:, None, None]
    to_raw = torch.linalg.inv_ex(torch.where(real, source.geometry.double(), identity)).inverse
    return torch.where(real, target.geometry.double(), identity) @ to_raw


def _moved_points(points_xy: Tensor, matrix: Tensor) -> Tensor:
    """(B, ..., 2) float64 by (B, 3, 3)."""
    flat = points_xy.flatten(1, -2)
    return (flat @ matrix[:, :2, :2].mT + matrix[:, None, :2, 2]).view(points_xy.shape)


def _moved_boxes(boxes_xyxy: Tensor, matrix: Tensor) -> Tensor:
    """(B, D, 4) by a scale, shift or mirror (B, 3, 3) -> (B, D, 4) float64."""
    ends = _moved_points(boxes_xyxy.double().unflatten(-1, (2, 2)), matrix)
    return torch.cat((ends.amin(dim=2), ends.amax(dim=2)), dim=-1)


def _mean(views: list[Tensor | None]) -> Tensor | None:
    present = [values for values in views if values is not None]
    return torch.stack(present).mean(dim=0) if present else None


def _picked(views: list[Tensor | None], index: Tensor, valid: Tensor) -> Tensor | None:
    """Of (B, D, ...) of every view those (B, K) chosen among all; 0 where not valid."""
    present = [values for values in views if values is not None]
    if not present:
        return None
    together = torch.cat(present, dim=1)
    shape = (*index.shape, *[1] * (together.dim() - 2))
    chosen = together.gather(1, index.view(shape).expand(-1, -1, *together.shape[2:]))
    return torch.where(valid.view(shape), chosen, 0.0)
