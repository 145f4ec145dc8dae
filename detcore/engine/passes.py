"""Forward and backward of a batch."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detcore.engine.precision import Precision
from detcore.structures.batch import Batch


class Losses(nn.Module):
    """A model as a function from batch to losses: what DistributedDataParallel can wrap."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The model's losses, by name.

        Raises:
            ValueError: if they are not a dict of 0-dim tensors.
        """
        losses: dict[str, Tensor] = self.model.losses(batch)  # type: ignore[operator]
        if not isinstance(losses, dict) or not losses:
            raise ValueError(f"{type(self.model).__name__}.losses must give a dict of losses, got {losses!r:.80}")
        for name, value in losses.items():
            if not isinstance(value, Tensor) or value.ndim:
                raise ValueError(
                    f"{type(self.model).__name__}.losses: {name!r} must be a 0-dim tensor, got {value!r:.80}"
                )
        return losses


class Passes(Protocol):
    """The passes of an optimiser step."""

    scaler: torch.amp.GradScaler

    def clear(self) -> None:
        """Before the first pass of a step: no gradients."""

    def __call__(self, batch: Batch, *, last: bool) -> dict[str, Tensor]:
        """Adds the gradients of a batch to the parameters'; after the step's last, they are the mean over ranks.

        Returns:
            The losses by name, 0-dim, divided by the number of passes; of this rank.
        """


class PlainPasses:
    """Passes as PyTorch runs them, operator by operator.

    Args:
        losses: `Losses` around the model, in DistributedDataParallel where there are several ranks.
        precision: the number format.
        accumulate: passes of a step; the losses are divided by it.
    """

    def __init__(self, losses: nn.Module, *, precision: Precision, accumulate: int) -> None:
        self._losses, self._precision, self._accumulate = losses, precision, accumulate
        self.scaler = precision.gradient_scaler()

    def clear(self) -> None:
        self._losses.zero_grad(set_to_none=True)

    def __call__(self, batch: Batch, *, last: bool) -> dict[str, Tensor]:
        with self._synchronised(last):
            with self._precision.autocast():
                losses = {name: loss / self._accumulate for name, loss in self._losses(batch).items()}
                total = cast(Tensor, sum(losses.values()))
            self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        return {name: loss.detach() for name, loss in losses.items()}

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Ranks exchange gradients in the last pass of a step only."""
        if last or not isinstance(self._losses, DistributedDataParallel):
            return nullcontext()
        return self._losses.no_sync()  # type: ignore[no-any-return]


def flat_gradients(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Gives the parameters, all of one dtype, gradients that are parts of one tensor, zero, and gives that tensor.

    Clearing them is then one operation, and so is their mean over ranks.
    """
    flat = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
    parts = flat.split([p.numel() for p in parameters])  # type: ignore[no-untyped-call]
    for parameter, part in zip(parameters, parts, strict=True):
        # Autograd adds in place only to a gradient that lies in memory as its parameter does.
        parameter.grad = part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
    return flat
