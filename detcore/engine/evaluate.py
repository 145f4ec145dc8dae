"""A model's detections on a whole split, over all ranks, against the ground truth."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from detcore.config import EvaluationConfig
from detcore.data import ShardedSplit
from detcore.engine.collective import copy_buffers_from_rank_zero, from_rank_zero, gather, mean_over_ranks, world_size
from detcore.engine.precision import Precision
from detcore.evaluation import Evaluation, Evaluator, GroundTruth
from detcore.ops import PanopticLimits
from detcore.structures.batch import Batch


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation gives.

    Attributes:
        metrics: the evaluation's, in percent, and `val_loss` with `val_<name>` where losses were asked for.
        evaluation: curves, classes and detections.
    """

    metrics: dict[str, float]
    evaluation: Evaluation


def never() -> bool:
    return False


def predictions(model: nn.Module) -> tuple[str, ...]:
    """What a detector says that it gives: boxes, masks, keypoints, rotated, semantic, panoptic, proposals."""
    return tuple(getattr(model, "predicts", ("boxes",)))


def ground_truth(split: ShardedSplit) -> GroundTruth:
    """All that a split knows of its images."""
    return GroundTruth(
        coco=split.to_coco(),
        semantic=split.semantic if split.has_semantic else None,
        panoptic=split.panoptic if split.has_panoptic else None,
        semantic_classes=split.semantic_classes,
    )


def evaluator_of(
    model: nn.Module,
    truth: GroundTruth,
    settings: EvaluationConfig,
    *,
    keep_maps_of: Collection[int] = (),
    operating_points: bool = False,
) -> Evaluator:
    """An evaluator of all that the model predicts and the data has. ValueError if that is nothing."""
    return Evaluator(
        truth,
        predicts=predictions(model),
        settings=settings,
        panoptic_limits=getattr(model, "panoptic_limits", PanopticLimits()),
        keep_maps_of=keep_maps_of,
        operating_points=operating_points,
    )


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    evaluator: Evaluator,
    precision: Precision,
    losses: bool = False,
    interrupted: Callable[[], bool] = never,
) -> Scores | None:
    """Runs `model.detect` over one pass of `batches`, each rank over its share, and compares with the truth.

    The model is in eval mode throughout, also for its losses: running statistics stay as they are.

    Args:
        model: has detect and, if asked for, losses.
        batches: this rank's share; equally many on every rank.
        evaluator: a fresh one, of the batches' split.
        precision: the number format to run in.
        losses: also give the validation losses; the batches need targets.
        interrupted: asked before every batch, on every rank; True gives up.

    Returns:
        The same on every rank; None if interrupted.

    Raises:
        ValueError: if what the model detects does not fit the ground truth.
    """
    copy_buffers_from_rank_zero(model)
    was_training = model.training
    model.eval()
    rows: list[dict[str, Tensor]] = []
    try:
        for batch in batches:
            if interrupted():
                return None
            with precision.autocast():
                detections = model.detect(batch)  # type: ignore[operator]
                if losses:
                    rows.append({**model.losses(batch), "real": batch.real.sum()})  # type: ignore[operator]
            evaluator.add(batch, detections)
    finally:
        model.train(was_training)
    states = gather(evaluator.state())

    def compute() -> Evaluation:
        evaluator.merge(states)
        return evaluator.compute()

    # All of it travels: the curves are small beside the detections that have just come the other way.
    evaluation = from_rank_zero(compute)
    return Scores(metrics={**evaluation.metrics, **_mean_losses(rows)}, evaluation=evaluation)


def _mean_losses(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    """The mean over images: each batch's losses, themselves means over ranks, count by its images over all ranks."""
    if not rows:
        return {}
    names = sorted(rows[0].keys() - {"real"})
    table = mean_over_ranks(
        torch.stack([torch.stack([row[name].double() for name in (*names, "real")]) for row in rows])
    )
    values, images = table[:, :-1], table[:, -1:] * world_size()
    *means, total = (
        (torch.cat((values, values.sum(dim=1, keepdim=True)), dim=1) * images / images.sum()).sum(dim=0).tolist()
    )
    return {
        "val_loss": total,
        **{f"val_{name}": value for name, value in zip(names, means, strict=True) if name != "loss"},
    }
