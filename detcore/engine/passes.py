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
    """A model as a function from batch to losses: what DistributedDataParallel can wrap, and torch.compile."""

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
    """Passes as PyTorch runs them: operator by operator, or what torch.compile makes of them.

    Args:
        losses: `Losses` around the model, in DistributedDataParallel where there are several ranks.
        precision: the number format.
        accumulate: passes of a step; the losses are divided by it.
        compiled: the losses are compiled, once for all shapes of images.
    """

    def __init__(self, losses: nn.Module, *, precision: Precision, accumulate: int, compiled: bool = False) -> None:
        self._module, self._precision, self._accumulate, self._compiled = losses, precision, accumulate, compiled
        self._losses = torch.compile(losses) if compiled else losses
        self.scaler = precision.gradient_scaler()

    def clear(self) -> None:
        self._module.zero_grad(set_to_none=True)

    def __call__(self, batch: Batch, *, last: bool) -> dict[str, Tensor]:
        if self._compiled:
            _let_size_vary(batch)
        with self._synchronised(last):
            with self._precision.autocast():
                losses = {name: loss / self._accumulate for name, loss in self._losses(batch).items()}
                total = cast(Tensor, sum(losses.values()))
            self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        return {name: loss.detach() for name, loss in losses.items()}

    def _synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Ranks exchange gradients in the last pass of a step only."""
        if last or not isinstance(self._module, DistributedDataParallel):
            return nullcontext()
        return self._module.no_sync()  # type: ignore[no-any-return]


def _let_size_vary(batch: Batch) -> None:
    """Tells torch.compile that height and width are not constants, so that one graph serves all buckets."""
    semantic = None if batch.targets is None else batch.targets.semantic
    torch._dynamo.maybe_mark_dynamic(batch.images, (2, 3))  # type: ignore[no-untyped-call]
    if semantic is not None:
        torch._dynamo.maybe_mark_dynamic(semantic, (1, 2))  # type: ignore[no-untyped-call]


def flat_gradients(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Gives the parameters, all of one dtype, gradients that are parts of one tensor, zero, and gives that tensor.

    Clearing them is then one operation, and so is their mean over ranks.
    """
    flat = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        # Autograd adds in place only to a gradient that lies in memory as its parameter does.
        parameter.grad = part.as_strided(parameter.shape, parameter.stride(), part.storage_offset())
    return flat
