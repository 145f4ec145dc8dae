"""What surrounds the step costs: Ray Train, MLflow and checkpoints, beside a bare loop over the same step.

    python tests/perf/overhead.py [--runs 3] [--steps 100] [--ways bare,ray] [--threads 1] [--json FILE] [overrides…]

Each run is a process of its own, the ways taken in turns; of each, the medians are shown. Ways:

  bare    train_step and nothing else
  fit     the loop of detcore.engine: logs and watches losses, evaluates nothing, saves nothing
  local   the same with checkpoints and MLflow (sqlite), in this process
  ray     the same under Ray Train, with one worker: the command as people give it

The clock runs from one step to the next, so all that a step waits for is in it; it wants a quiet machine. Other work on
the machine changes CPU seconds less: those of the training's thread, and those of the driver and all its children,
Ray's own processes included (what these take, the step lacks where all cores are in use). Last, of the loop, what is
not in the step: of one process, so that other work slows both alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from detcore.config import Config, load
from detcore.engine import LocalWorker
from detcore.engine.build import open_run
from detcore.engine.meter import StepRecord
from detcore.engine.step import train_step
from detcore.launch.training import ensure_shards, train
from detcore.models import build_model
from detcore.structures.batch import Batch, Detections

WAYS = ("bare", "fit", "local", "ray")
BAR_PERCENT = 2.0
FIRST = 10
"""Steps before the clock is looked at: allocators, lazy imports and MLflow's first answer are over by then."""
RECIPE = [
    *("engine.batch_size=4", "engine.eval_every=null", "engine.validation_loss=false"),
    *(
        "engine.log_every=10",
        "engine.checkpoint_every=50",
        "cluster.cpus_per_worker=1",
        "data.source.train=200",
        "data.source.val=8",
        "data.source.test=8",
    ),
]


@dataclass(frozen=True)
class Reading:
    """Of the clocks, before a step; differences of two are meant.

    Attributes:
        clock, thread: seconds of wall clock, and of CPU in the training's thread.
        step_clock, step_thread: of these, inside `train_step`.
        processes: CPU seconds of the driver and all its children.
    """

    clock: float
    thread: float
    step_clock: float
    step_thread: float
    processes: float


class Timed(nn.Module):
    """A model that reads the clocks before two of its steps.

    Where the loop is that of `fit`, it puts itself around its `train_step`: what is inside and what is outside of it
    are then of one process, and other work on the machine slows both.
    """

    def __init__(self, model: nn.Module, *, root: int, steps: tuple[int, int], file: Path) -> None:
        super().__init__()
        self.model, self.root, self.steps, self.file, self.passes = model, root, steps, file, 0
        self.num_classes = model.num_classes
        self.inside = [0.0, 0.0]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        if self.training:
            if self.passes == 0:
                sys.modules["detcore.engine.fit"].train_step = self._step  # type: ignore[attr-defined]
            if self.passes in self.steps:
                now = time.perf_counter(), time.thread_time()
                with self.file.open("a") as file:
                    file.write(json.dumps([*now, *self.inside, cpu_seconds(self.root)]) + "\n")
            self.passes += 1
        losses: dict[str, Tensor] = self.model.losses(batch)
        return losses

    def detect(self, batch: Batch) -> Detections:
        found: Detections = self.model.detect(batch)
        return found

    def _step(self, *arguments: Any) -> StepRecord:
        begun = time.perf_counter(), time.thread_time()
        record = train_step(*arguments)
        self.inside[0] += time.perf_counter() - begun[0]
        self.inside[1] += time.thread_time() - begun[1]
        return record


def cpu_seconds(root: int) -> float:
    process, total = psutil.Process(root), 0.0
    for each in (process, *process.children(recursive=True)):
        try:
            times = each.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def run_one(way: str, config: Config, file: Path) -> None:
    """One run, in this process."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    torch.manual_seed(0)
    model = Timed(
        build_model(config.model, num_classes=10),
        root=os.getpid(),
        steps=(FIRST, config.engine.steps - 1),
        file=file,
    )
    if way != "bare":
        train(config, model=model)
        return
    run = open_run(
        model, config=config, shards=config.data.shards, worker=LocalWorker(device=torch.device("cpu")), transform=None
    )
    for step in range(config.engine.steps):
        train_step(run.training, run.batches, step)
    run.close()


def measured(way: str, overrides: list[str], folder: Path, *, threads: int) -> Reading:
    """Of a step."""
    own = {
        "bare": ["cluster=local", "tracking.enabled=false"],
        "fit": ["cluster=local", "tracking.enabled=false", "engine.checkpoint_every=1000000"],
        "local": ["cluster=local"],
        "ray": [],
    }[way]
    run = Path(tempfile.mkdtemp(prefix=way, dir=folder))
    command = [sys.executable, __file__, "--way", way, "--file", str(run / "readings"), *overrides, *own]
    command += [f"run_dir={run}", f"tracking.uri=sqlite:///{folder}/mlflow.db", "engine.device=cpu"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    begin, end = map(json.loads, (run / "readings").read_text().splitlines())
    steps = load(overrides).engine.steps - 1 - FIRST
    return Reading(*((last - first) / steps for first, last in zip(begin, end, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument(
        "--ways", default="bare,ray", help=f"of {', '.join(WAYS)}; the first is what others are held to"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to FILE")
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    if arguments.way:
        run_one(arguments.way, load(arguments.overrides), arguments.file)
        return
    overrides = [*RECIPE, f"engine.steps={arguments.steps + FIRST + 1}", *arguments.overrides]
    ways = arguments.ways.split(",")
    found: dict[str, list[Reading]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        overrides.append(f"data.shards={folder}/shards")
        ensure_shards(load(overrides))
        for number in range(arguments.runs):
            for way in ways:
                found[way].append(measured(way, overrides, Path(folder), threads=arguments.threads))
                words = "  ".join(f"{name} {1e3 * value:.1f}" for name, value in asdict(found[way][-1]).items())
                print(f"run {number + 1}, {way}, ms a step: {words}", flush=True)
    report(found, file=arguments.json)


def report(found: dict[str, list[Reading]], *, file: Path | None) -> None:
    base, *others = found
    medians = {
        way: Reading(*(statistics.median(values) for values in zip(*map(astuple, runs), strict=True)))
        for way, runs in found.items()
    }
    rows: list[tuple[str, float, float, float | None]] = []
    for way in others:
        ours, theirs, bar = medians[way], medians[base], BAR_PERCENT if way == "ray" else None
        rows += [
            (f"{way} against {base}: clock", ours.clock, theirs.clock, bar),
            (f"{way} against {base}: CPU, training's thread", ours.thread, theirs.thread, None),
            (f"{way} against {base}: CPU, all processes", ours.processes, theirs.processes, None),
            (f"{way}: loop against the step in it, clock", ours.clock, ours.step_clock, bar),
            (f"{way}: loop against the step in it, CPU", ours.thread, ours.step_thread, None),
        ]
    print(f"{'case':<46}{'unit':<5}{'ours':>9}{'theirs':>9}{'over %':>8}")
    lines = []
    for case, ours, theirs, bar in rows:
        over = 100 * (ours / theirs - 1)
        print(f"{case:<46}{'ms':<5}{1e3 * ours:>9.1f}{1e3 * theirs:>9.1f}{over:>8.2f}")
        line = {"case": case, "unit": "ms", "ours": 1e3 * ours, "theirs": 1e3 * theirs, "ratio": theirs / ours}
        lines.append({**line, "bar": bar, "met": bar and over <= bar})
    if file:
        file.write_text(json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
