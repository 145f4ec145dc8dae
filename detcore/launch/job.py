"""What a rank is given, and what it does with it, whatever started it."""

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from detcore.config import Config
from detcore.config.model import OF_PIXELS
from detcore.data import SampleTransform, ShardedSplit
from detcore.data.description import read_description
from detcore.engine import FitResult, Worker, fit
from detcore.evaluation import save_pr_curve
from detcore.models import build_model
from detcore.tracking import RunHandle, TrackingCallback


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training, as sent to every rank.

    Attributes:
        config: with absolute paths.
        run: the MLflow run, or None where nothing is tracked.
        model: a user's own, or None to build what the config says.
        transform: a user's own augmentation.
    """

    config: Config
    run: RunHandle | None = None
    model: nn.Module | None = None
    transform: SampleTransform | None = None

    def build_model(self) -> nn.Module:
        """The module to train: the same weights on every rank."""
        if self.model is not None:
            return self.model
        data = read_description(self.config.data.shards, store=self.config.data.store)
        names = data.get("semantic_classes", ()) if self.config.model.type in OF_PIXELS else data["categories"]
        torch.manual_seed(self.config.seed)
        return build_model(self.config.model, num_classes=len(names), class_counts=self._class_counts())

    def _class_counts(self) -> list[int] | None:
        """Training images of each class, where the model's loss asks for them."""
        federated = getattr(getattr(self.config.model, "box_head", None), "federated", None)
        if federated is None or federated.class_counts is not None:
            return None
        data = self.config.data
        return ShardedSplit.open(data.shards, "train", store=data.store).images_by_class()


def run_rank(job: Job, worker: Worker) -> FitResult:
    """Trains on this rank; rank 0 also keeps the records."""
    with ExitStack() as stack:
        callbacks = []
        if job.run is not None and worker.rank == 0:
            callbacks.append(stack.enter_context(TrackingCallback(job.run, save_curve=save_pr_curve)))
        return fit(
            job.build_model(),
            config=job.config,
            shards=job.config.data.shards,
            worker=worker,
            callbacks=callbacks,
            transform=job.transform,
        )
