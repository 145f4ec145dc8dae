"""What a person sees of a training: a live line on a terminal, plain lines elsewhere."""

import resource
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from detcore.config import EngineConfig

_PLAIN_SECONDS = 5.0
"""Away from a terminal a line comes at each log, and at least so often."""


def memory_bytes() -> int:
    """The most memory held so far: of the CUDA device where one is in use, else of this process."""
    if torch.cuda.is_available() and (allocated := torch.cuda.max_memory_allocated()):
        return allocated
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class ProgressLine:
    """Step, loss, images/s, time left, peak memory and the share of time spent waiting for data. A context manager.

    Args:
        engine: how many steps there are, and images in each.
        step: where it starts.
        shown: False says nothing: all ranks but one.
    """

    def __init__(self, engine: EngineConfig, *, step: int, shown: bool, console: Console | None = None) -> None:
        self._total = engine.steps
        self._images_per_step = engine.batch_size
        self._shown = shown
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._metrics: Mapping[str, float] = {}
        self._last_line = time.perf_counter()
        self._live = Progress(
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            console=self._console,
            disable=not (shown and self._console.is_terminal),
            transient=False,
        )
        self._task = self._live.add_task("training", total=self._total, completed=step, status="")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def step(self, step: int, *, metrics: Mapping[str, float] | None = None) -> None:
        """After a step: `step` are done, and `metrics` is what was logged, if it was."""
        self._metrics = metrics or self._metrics
        if not self._live.disable:
            self._live.update(self._task, completed=step, status=self._status(step))
        elif self._shown and (metrics or time.perf_counter() - self._last_line >= _PLAIN_SECONDS):
            self._last_line = time.perf_counter()
            self._console.print(f"step {step}/{self._total}  {self._status(step)}")

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line that stays: what an evaluation found."""
        shown = {name: value for name, value in metrics.items() if not name.startswith("val_") or name == "val_loss"}
        values = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        self.say(f"step {step}/{self._total}  evaluation: {values}")

    def say(self, line: str) -> None:
        if self._shown:
            self._console.print(line)

    def _status(self, step: int) -> str:
        memory = f"{memory_bytes() / 2**30:.2f} GiB"
        if not self._metrics:
            return memory
        rate = self._metrics["images_per_second"]
        step_seconds = self._images_per_step / rate
        waited = min(self._metrics["data_wait_seconds"] / step_seconds, 1.0)
        left = int((self._total - step) * step_seconds)
        skipped = f"  {self._metrics['skipped_samples']} left out" if "skipped_samples" in self._metrics else ""
        return (
            f"loss {self._metrics['loss']:.4f}  {rate:.1f} images/s  "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left  {memory}  data wait {waited:.0%}{skipped}"
        )
