"""All that the engine sees of whatever started it: one process among `world_size`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch


class Worker(Protocol):
    """One rank of a training. Where there are several, torch.distributed's default group joins them already."""

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def local_rank(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Takes the outcome of an evaluation; on every rank.

        With the folder of that step's checkpoint, if there is one: it may still be being written.
        """

    def stop_requested(self) -> bool:
        """Whether this rank should checkpoint and leave, because its machine is about to go. Asked once a step."""

    def beat(self, step: int, *, bounded: bool) -> None:
        """This rank goes on, after `step` steps.

        Called before each step and each batch of an evaluation with `bounded`: what comes now takes about as long as it
        did before; and after them without: evaluating, saving and publishing take as long as they take.
        """


def pick_device(name: Literal["auto", "cpu", "cuda"], *, local_rank: int = 0) -> torch.device:
    """The device of a rank: 'auto' is CUDA where there is one.

    Raises:
        ValueError: for 'cuda' on a machine without.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("engine.device = cuda, but torch sees no CUDA device here; use engine.device=cpu or auto")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


@dataclass(frozen=True, kw_only=True)
class LocalWorker:
    """This process alone, or a rank of a group that the caller has initialised."""

    device: torch.device
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def report(self, metrics: dict[str, float], checkpoint: Path | None) -> None:
        """Nobody listens."""

    def stop_requested(self) -> bool:
        return False

    def beat(self, step: int, *, bounded: bool) -> None:
        """Nobody watches."""
