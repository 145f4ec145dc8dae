"""A detector that something happens to: once, to one rank, in the middle of its training."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Literal

import psutil
import torch
import torch.distributed as dist
from tiny_training import TinyDetector
from torch import Tensor

from detcore.structures.batch import Batch

Fault = Literal["nothing", "kill", "stop", "raise", "refuse", "hang", "nan", "ask"]
PASSES, ASKED, ANSWERED = "passes.jsonl", "asked.json", "answered"


class FaultyDetector(TinyDetector):
    """A `TinyDetector` that notes each of rank 0's training passes in `folder`.

    Args:
        fault: what happens: SIGKILL or SIGSTOP to the process, an error of the world or of the program, an endless
            sleep, a NaN, or a question (`asked.json` in the folder) and then waiting for its answer.
        at: in so many steps from the training's beginning.
        rank: to which rank.
        seconds: a step takes at least.
    """

    def __init__(self, folder: Path, fault: Fault, *, at: int, rank: int, seconds: float = 0.0) -> None:
        super().__init__()
        self.folder, self.fault, self.at, self.rank, self.seconds = folder, fault, at, rank, seconds

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        losses = super().losses(batch)
        if not self.training:
            return losses
        rank = dist.get_rank() if dist.is_initialized() else 0
        step = int(batch.rng_key[1])
        if rank == 0:
            with (self.folder / PASSES).open("a") as file:
                file.write(json.dumps({"step": step, "time": time.time(), "world_size": num_ranks()}) + "\n")
        time.sleep(self.seconds)
        if rank == self.rank and step == self.at and self._first_time():
            return self._happen(losses)
        return losses

    def _first_time(self) -> bool:
        try:
            (self.folder / "happened").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _happen(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        match self.fault:
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
            case "ask":
                ask(self.folder)
        return losses


def ask(folder: Path) -> None:
    """Leaves who asks, and waits for the answer."""
    question = {"pid": os.getpid(), "address": own_address()}
    temporary = folder / f".{ASKED}"
    temporary.write_text(json.dumps(question))
    temporary.rename(folder / ASKED)
    while not (folder / ANSWERED).exists():
        time.sleep(0.05)


def own_address() -> str:
    """Of this process's network namespace."""
    found = psutil.net_if_addrs()["eth0"]
    return next(each.address for each in found if each.family.name == "AF_INET")


def num_ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def passes(folder: Path) -> list[dict[str, float]]:
    """What rank 0 noted: step, time and world size of each training pass."""
    return [json.loads(line) for line in (folder / PASSES).read_text().splitlines()]
