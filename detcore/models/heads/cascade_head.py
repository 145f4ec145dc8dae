"""Box heads in a row, each on the boxes of the one before: Cascade R-CNN, arXiv:1712.00726, section 4."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from detcore.models.heads.box_head import BoxHead, RegionPredictions
from detcore.models.proposals.roi_sampling import TrainingRegions, match_regions
from detcore.models.proposals.rpn import Proposals
from detcore.structures.batch import Batch
from detcore.structures.boxes import clip, larger_than


class CascadeHead(nn.Module):
    """Each stage pools the regions anew, classifies them and moves them; the last one's boxes are the detections.

    Training matches the moved regions with the objects again, at the stage's own IoU, and draws none anew. Gradients
    into the features, which all stages share, are divided by the number of stages. Scores are the stages' mean.

    Args:
        stages: box heads whose boxes are the same for all classes.
        ious: a region is positive for a stage at or above its IoU. The first is what the regions were sampled with.
    """

    def __init__(self, *, stages: Sequence[BoxHead], ious: Sequence[float]) -> None:
        super().__init__()
        if not stages or len(stages) != len(ious):
            raise ValueError(f"a cascade of {len(stages)} stages with {len(ious)} IoUs: it needs one for each")
        if not all(stage.class_agnostic for stage in stages):
            raise ValueError("a cascade moves regions of unknown class: its stages must be class_agnostic")
        self.stages: Sequence[BoxHead] = nn.ModuleList(stages)  # type: ignore[assignment]
        self.ious = tuple(ious)
        self.num_classes: int = stages[0].num_classes

    def losses(self, features: Sequence[Tensor], regions: TrainingRegions, batch: Batch) -> dict[str, Tensor]:
        """loss_cls_stage0, loss_box_reg_stage0, loss_cls_stage1 and so on; see `box_head_losses`."""
        features = [_ScaledGradient.apply(feature, 1 / len(self.stages)) for feature in features]
        losses: dict[str, Tensor] = {}
        for number, stage in enumerate(self.stages):
            hidden = stage.hidden(features, regions.boxes, regions.valid)
            found = stage.losses_of(hidden, regions, batch, draw=number)
            losses |= {f"{name}_stage{number}": loss for name, loss in found.items()}
            if number + 1 < len(self.stages):
                regions = self._regions_after(stage, hidden, regions, batch, positive_iou=self.ious[number + 1])
        return losses

    @torch.no_grad()
    def _regions_after(
        self, stage: BoxHead, hidden: Tensor, regions: TrainingRegions, batch: Batch, *, positive_iou: float
    ) -> TrainingRegions:
        """The regions where `stage` moves them, matched again; those that became empty count no more."""
        assert batch.targets is not None
        boxes = _moved(stage, regions.boxes, stage.box_offsets(hidden), batch.image_sizes)
        valid = regions.valid & larger_than(boxes, 0.0)
        return match_regions(boxes, valid, batch.targets, positive_iou=positive_iou, num_classes=self.num_classes)

    def predict(self, features: Sequence[Tensor], proposals: Proposals) -> RegionPredictions:
        """Mean probabilities of every proposal, and the last stage's boxes."""
        assert proposals.image_sizes is not None
        boxes, stages = proposals.boxes, []
        for stage in self.stages:
            stages.append(stage.predict_regions(features, boxes, proposals.valid))
            boxes = _moved(stage, boxes, stages[-1].offsets[:, :, 0], proposals.image_sizes)
        return replace(stages[-1], scores=torch.stack([stage.scores for stage in stages]).mean(dim=0))


def _moved(stage: BoxHead, boxes_xyxy: Tensor, offsets: Tensor, image_sizes: Tensor) -> Tensor:
    """A stage's boxes, cut to the content; of one that is not finite, an empty one, which nothing counts."""
    boxes = stage.box_coder.decode(boxes_xyxy, offsets)
    finite = boxes.isfinite().all(dim=-1, keepdim=True)
    return clip(torch.where(finite, boxes, 0.0), image_sizes)


class _ScaledGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.scale, None
