"""A model's detections on a whole split, and what they are compared with."""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from detcore.config import EvaluationConfig
from detcore.data import ShardedSplit
from detcore.engine.collective import copy_buffers_from_rank_zero, mean_over_ranks, world_size
from detcore.engine.precision import Precision
from detcore.evaluation import Evaluation, Evaluator, GroundTruth
from detcore.ops import PanopticLimits
from detcore.structures.batch import Batch

_BEHIND = 2
"""So many batches' detections, and the one that is being taken over, may lie on the device."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation gives.

    Attributes:
        metrics: the evaluation's, in percent, and `val_loss` with `val_<name>` where losses were asked for.
        evaluation: curves, classes and detections; None on all ranks but the first.
    """

    metrics: dict[str, float]
    evaluation: Evaluation | None


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


def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    evaluator: Evaluator,
    precision: Precision,
    losses: bool = False,
    interrupted: Callable[[], bool] = never,
) -> Scores | None:
    """Detects on one pass of `batches` and compares with the truth, in this process alone. Arguments as of `detect`.

    Returns:
        None if interrupted.

    Raises:
        ValueError: if what the model detects does not fit the ground truth.
    """
    mean_losses = detect(
        model, batches, evaluator=evaluator, precision=precision, losses=losses, interrupted=interrupted
    )
    if mean_losses is None:
        return None
    evaluation = evaluator.compute()
    return Scores(metrics={**evaluation.metrics, **mean_losses}, evaluation=evaluation)


@torch.no_grad()
def detect(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    evaluator: Evaluator,
    precision: Precision,
    losses: bool = False,
    interrupted: Callable[[], bool] = never,
) -> dict[str, float] | None:
    """Runs `model.detect` over one pass of `batches`, each rank over its share; `evaluator` collects what it finds.

    The model is in eval mode throughout, also for its losses: running statistics stay as they are. A thread takes
    detections over (masks drawn, all of it brought to the host) while the model looks at the next images.

    Args:
        model: has detect and, if asked for, losses.
        batches: this rank's share; equally many on every rank.
        evaluator: a fresh one, of the batches' split.
        precision: the number format to run in.
        losses: also give the validation losses; the batches need targets.
        interrupted: asked before every batch, on every rank; True gives up.

    Returns:
        The mean losses over all ranks' images, `val_loss` their sum; {} if not asked for, None if interrupted.

    Raises:
        ValueError: if what the model detects does not fit the ground truth.
    """
    copy_buffers_from_rank_zero(model)
    was_training = model.training
    model.eval()
    rows: list[dict[str, Tensor]] = []
    collected: deque[Future[None]] = deque()
    on_device = _use_of(precision.device)
    with ThreadPoolExecutor(1, thread_name_prefix="detcore-detections", initializer=on_device) as collector:
        try:
            for batch in batches:
                if interrupted():
                    return None
                with precision.autocast():
                    detections = model.detect(batch)  # type: ignore[operator]
                    if losses:
                        rows.append({**model.losses(batch), "real": batch.real.sum()})  # type: ignore[operator]
                collected.append(collector.submit(evaluator.add, batch, detections))
                if len(collected) > _BEHIND:
                    collected.popleft().result()
        finally:
            model.train(was_training)
        for last in collected:
            last.result()
    return _mean_losses(rows)


def _use_of(device: torch.device) -> Callable[[], None]:
    """To be called in a new thread, which otherwise would do its CUDA work on the first of the machine's GPUs."""
    if device.type != "cuda":
        return lambda: None
    return partial(torch.cuda.set_device, torch.cuda.current_device() if device.index is None else device.index)


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
