"""Losses between two logs: kept on the device, fetched together, watched for what is not finite."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detcore.engine.collective import gather, mean_over_ranks, world_size


class NonFiniteLossError(ValueError):
    """A loss or gradient became NaN or infinite. The message names the step and its images."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What a step leaves behind; nothing in it has been waited for.

    Attributes:
        step: 0-based.
        losses: name -> 0-dim, the mean over the step's accumulation rounds; of this rank.
        grad_norm: 0-dim, before clipping; the same on all ranks.
        sample_ids: (B,) of each round.
        lr: the highest of the parameter groups.
        seconds: from the step's begin until all its work was queued.
        wait_seconds: of these, spent waiting for data.
        skipped: samples of this rank that were left out because their bytes are damaged.
    """

    step: int
    losses: dict[str, Tensor]
    grad_norm: Tensor
    sample_ids: Sequence[Tensor]
    lr: float
    seconds: float
    wait_seconds: float
    skipped: int = 0


class Meter:
    """Collects steps. `check` and `flush` wait for the device, and every rank must call them at the same steps.

    Args:
        image_ids: (n,) ids of the training split, to name images by.
        images_per_step: over all ranks.
        skips_overflow: gradients that are not finite are not an error: fp16's loss scale makes and skips them.

    Attributes:
        skipped: samples left out as damaged, of all ranks and of all steps up to the last flush.
    """

    def __init__(self, *, image_ids: NDArray[np.int64], images_per_step: int, skips_overflow: bool) -> None:
        self._image_ids = image_ids
        self._images_per_step = images_per_step
        self._skips_overflow = skips_overflow
        self._names: list[str] = []
        self._unchecked: list[tuple[StepRecord, Tensor]] = []
        self._rows: list[list[float]] = []
        self._lr = 0.0
        self.skipped = 0
        self._start_clock()

    def add(self, record: StepRecord) -> None:
        """Takes a step, without waiting for it.

        Raises:
            ValueError: if the model's losses are not those of the steps before.
        """
        names = sorted(record.losses)
        if self._names and names != self._names:
            raise ValueError(f"step {record.step}: the model's losses are {names}, before they were {self._names}")
        self._names = names
        losses = torch.stack([record.losses[name].double() for name in names])
        norm = record.grad_norm.double()[None]
        values = torch.cat((losses, losses.sum()[None], norm, torch.full_like(norm, record.skipped * world_size())))
        self._unchecked.append((record, values))
        self._lr = record.lr
        self._steps += 1
        self._seconds += record.seconds
        self._wait_seconds += record.wait_seconds

    def check(self) -> None:
        """Fetches the steps since the last check.

        Raises:
            NonFiniteLossError: on all ranks, if any of the steps was not finite on one.
        """
        if not self._unchecked:
            return
        started = time.perf_counter()
        own = torch.stack([values for _, values in self._unchecked])
        values = mean_over_ranks(own).cpu()  # (steps, losses + total + norm + skipped)
        watched = values[:, :-2] if self._skips_overflow else values
        finite = watched.isfinite().all(dim=1)
        if not finite.all():
            raise self._describe(int(finite.logical_not().nonzero()[0]), own)
        self._rows += values.tolist()
        self._unchecked.clear()
        self._seconds += time.perf_counter() - started

    def flush(self) -> dict[str, float]:
        """The means over ranks and over the steps since the last flush, `check`ed.

        Returns:
            `loss` (the sum), each loss by name, `grad_norm`, `lr` (of the last step), `images_per_second` and
            `data_wait_seconds` (of a step); the last two cover only steps taken in this process. `skipped_samples`, how
            many were left out as damaged, where there were any.
        """
        self.check()
        rows = np.array(self._rows)
        *losses, total = rows[:, :-2].mean(axis=0).tolist()
        norms = rows[np.isfinite(rows[:, -2]), -2]
        skipped = round(rows[:, -1].sum())
        metrics = {
            "loss": total,
            **{name: value for name, value in zip(self._names, losses, strict=True) if name != "loss"},
            "grad_norm": float(norms.mean()) if norms.size else 0.0,
            "lr": self._lr,
            "images_per_second": self._steps * self._images_per_step / max(self._seconds, 1e-9),
            "data_wait_seconds": self._wait_seconds / max(self._steps, 1),
        }
        if skipped:
            metrics["skipped_samples"] = skipped
            self.skipped += skipped
        self._rows = []
        self._start_clock()
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """What has been `check`ed and not flushed: with it, a resumed run logs what an uninterrupted one would."""
        assert not self._unchecked, "check() first"
        rows = [list(row) for row in self._rows]
        return {"names": list(self._names), "rows": rows, "lr": self._lr, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._names, self._rows, self._lr = list(state["names"]), [list(row) for row in state["rows"]], state["lr"]
        self.skipped = state["skipped"]

    def _start_clock(self) -> None:
        self._steps = 0
        self._seconds = self._wait_seconds = 0.0

    def _describe(self, index: int, own: Tensor) -> NonFiniteLossError:
        """The error for the first bad step. Blames the images of the ranks whose own losses are bad, else all."""
        record = self._unchecked[index][0]
        sample_ids = torch.cat([ids.reshape(-1) for ids in record.sample_ids]).cpu().numpy()
        bad = [name for name, value in zip(self._names, own[index].tolist(), strict=False) if not np.isfinite(value)]
        found = gather((bad, self._image_ids[sample_ids[sample_ids >= 0]].tolist()))
        names = sorted({name for names, _ in found for name in names})
        image_ids = [image for names_of_rank, ids in found if names_of_rank or not names for image in ids]
        what = f"{', '.join(names)} not finite" if names else "the gradient is not finite, the losses are"
        return NonFiniteLossError(
            f"step {record.step}: {what}, on images {image_ids}; stopped, with the last checkpoint kept. "
            "Look at these images, or try a lower optim.lr, a longer optim.warmup_steps or optim.clip_norm"
        )
