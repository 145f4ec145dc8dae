"""A detector that something happens to: once, to one rank, in the middle of its training."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
import torch.distributed as dist
from tiny_training import TinyDetector
from torch import Tensor

from detcore.structures.batch import Batch

Fault = Literal["kill", "stop", "raise", "refuse", "hang", "nan", "ask", "clock"]
PASSES = "passes.jsonl"
HURRY = "hurry"


@dataclass(frozen=True)
class Blow:
    """What happens to one rank, once.

    SIGKILL or SIGSTOP to its process, an error of the world or of the program, an endless sleep, a NaN, a clock that is
    a day late from then on, or a question (`asked-STEP` in the folder) and then waiting for its answer.
    """

    fault: Fault
    rank: int = 1


class FaultyDetector(TinyDetector):
    """A `TinyDetector` that notes each of rank 0's training passes in `folder`.

    Args:
        blows: by the step in which they fall.
        seconds: a step takes at least, until there is a file `hurry` in the folder.
    """

    def __init__(self, folder: Path, blows: Mapping[int, Blow], *, seconds: float = 0.0) -> None:
        super().__init__()
        self.folder, self.blows, self.seconds = folder, dict(blows), seconds

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        losses = super().losses(batch)
        if not self.training:
            return losses
        rank = dist.get_rank() if dist.is_initialized() else 0
        step = int(batch.rng_key[1])
        if rank == 0:
            with (self.folder / PASSES).open("a") as file:
                file.write(json.dumps({"step": step, "time": time.time(), "world_size": num_ranks()}) + "\n")
        if self.seconds and not (self.folder / HURRY).exists():
            time.sleep(self.seconds)
        blow = self.blows.get(step)
        if blow is not None and blow.rank == rank and self._first_time(step):
            return self._happen(blow.fault, step, losses)
        return losses

    def _first_time(self, step: int) -> bool:
        try:
            (self.folder / f"happened-{step}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _happen(self, fault: Fault, step: int, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        match fault:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "raise":
                raise ConnectionResetError("the network hiccupped")
            case "refuse":
                raise KeyError("a mistake in the program")
            case "hang":
                time.sleep(10_000)
            case "nan":
                losses["box"] = losses["box"] * torch.nan
            case "clock":
                now = time.time
                time.time = lambda: now() - 86_400.0
            case "ask":
                ask(self.folder, step)
        return losses


def ask(folder: Path, step: int) -> None:
    """Leaves the address of who asks, and waits for the answer."""
    temporary = folder / f".asked-{step}"
    temporary.write_text(own_address())
    temporary.rename(folder / f"asked-{step}")
    while not (folder / f"answered-{step}").exists():
        time.sleep(0.05)


def when_asked(folder: Path, step: int, act: Callable[[str], None]) -> threading.Thread:
    """In the test: as soon as a rank asks, acts on its node's address and lets the rank go on, if it still can."""

    def wait() -> None:
        while not (folder / f"asked-{step}").exists():
            time.sleep(0.05)
        act((folder / f"asked-{step}").read_text())
        (folder / f"answered-{step}").touch()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def own_address() -> str:
    """Of this process's network namespace."""
    found = psutil.net_if_addrs()["eth0"]
    return next(each.address for each in found if each.family.name == "AF_INET")


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def passes(folder: Path) -> list[dict[str, float]]:
    """What rank 0 noted: step, time and world size of each training pass."""
    return [json.loads(line) for line in (folder / PASSES).read_text().splitlines()]
