"""An exponential moving average of the trained parameters."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class ParameterAverage:
    """The average of a model's trained parameters over the steps (Polyak averaging with exponential forgetting).

    The decay of step t is min(decay, (1 + t) / (10 + t)), as in TensorFlow's ExponentialMovingAverage: in a short run
    the random start is forgotten as soon as there is something better. Buffers are the model's, not averaged.

    Args:
        model: holds the parameters; of their shapes, dtypes and devices is the average.
        decay: in [0, 1].
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self._decay = decay
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._average = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the parameters after `step` (0-based)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._average.values()), list(self._parameters.values()), 1.0 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model's parameters are the average; afterwards they are its own again, bit by bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Takes the average out of a whole model's state, as saved under `applied`."""
        for name, average in self._average.items():
            average.copy_(state[name])

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self._average[name] = self._average[name], parameter.data
