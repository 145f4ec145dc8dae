"""Which methods of a model make up which part of a training step, and how long each part takes."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from detcore.bench.stopwatch import Stopwatch
from detcore.engine.passes import Losses, PlainPasses
from detcore.engine.step import Batches, Training, train_step
from detcore.structures.batch import Batch

DENSE, PROPOSALS, HEADS, LOSSES = "dense forward", "proposals", "RoI heads", "losses"
BACKWARD, OPTIMISER, WAITING = "backward", "optimiser", "waiting for data"
PARTS = (DENSE, PROPOSALS, HEADS, LOSSES, BACKWARD, OPTIMISER, WAITING)
"""Losses are those of anchors or pixels, with their matching; those of regions count to the RoI heads."""

_METHODS = (
    ("", "losses", LOSSES),
    ("", "features", DENSE),
    ("", "dense", DENSE),
    ("rpn", "propose", PROPOSALS),
    ("", "region_sampler", PROPOSALS),
    *(
        (head, method, HEADS)
        for head in ("box_head", "mask_head", "keypoint_head", "point_head")
        for method in ("forward", "region_features", "losses_of", "losses")
    ),
)


class _TimedPasses:
    """What is in a pass beside the losses is backward."""

    def __init__(self, plain: PlainPasses, stopwatch: Stopwatch) -> None:
        self._plain, self._stopwatch, self.scaler = plain, stopwatch, plain.scaler

    def clear(self) -> None:
        self._plain.clear()

    def __call__(self, batch: Batch, *, last: bool) -> dict[str, Tensor]:
        with self._stopwatch.part(BACKWARD):
            return self._plain(batch, last=last)


class _TimedBatches:
    def __init__(self, batches: Batches, stopwatch: Stopwatch) -> None:
        self._batches, self._stopwatch, self.wait_seconds = batches, stopwatch, 0.0
        self.skipped = 0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        with self._stopwatch.part(WAITING):
            return next(self._batches)


def part_seconds(training: Training, batches: Batches, *, steps: int, device: torch.device) -> dict[str, float]:
    """Seconds of each of PARTS in so many plain steps: operator by operator, not captured.

    Replaces the gradients: passes that were captured cannot be used any more.
    """
    plain = PlainPasses(Losses(training.model), precision=training.precision, accumulate=training.accumulate)
    stopwatch = Stopwatch(device)
    timed = replace(training, passes=_TimedPasses(plain, stopwatch))
    source = _TimedBatches(batches, stopwatch)
    with _timed_methods(training.model, stopwatch):
        for step in range(steps):
            with stopwatch.part(OPTIMISER):  # what is in no other
                train_step(timed, source, step)
    spent = stopwatch.seconds()
    return {part: spent.get(part, 0.0) for part in PARTS}


@contextmanager
def _timed_methods(model: nn.Module, stopwatch: Stopwatch) -> Iterator[None]:
    with ExitStack() as stack:
        for owner, method, part in _METHODS:
            module = getattr(model, owner, None) if owner else model
            function = getattr(module, method, None)
            if callable(function):
                stack.enter_context(_replaced(module, method, stopwatch.timed(part, function)))
        yield


@contextmanager
def _replaced(module: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """A method, or an attribute that is called, of this one object."""
    own = vars(module).get(name)
    setattr(module, name, function)
    try:
        yield
    finally:
        if own is None:
            delattr(module, name)
        else:
            setattr(module, name, own)
