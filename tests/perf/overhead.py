"""What surrounds the step costs: Ray Train, MLflow and checkpoints, beside a bare loop over the same step.

    python tests/perf/overhead.py [--runs 3] [--steps 100] [--ways bare,ray] [--threads 1] [--json FILE] [overrides…]

Each run is a process of its own, the ways taken in turns; of each, the medians are shown. Ways:

  bare    train_step and nothing else
  fit     the loop of detcore.engine: logs and watches losses, evaluates nothing, saves nothing
  local   the same with checkpoints and MLflow (sqlite), in this process
  ray     the same under Ray Train, with one worker: the command as people give it

The time of a step is wall clock between two steps, so all that a step waits for is in it. CPU seconds are those of the
driver and of all its children, Ray's own processes included: on a machine whose cores are all in use, what they take
the step lacks; and other work on the machine does not change them as it does the clock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from detcore.config import Config, load
from detcore.engine import LocalWorker
from detcore.engine.build import open_run
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


class Timed(nn.Module):
    """A model that notes the clock and the CPU seconds of `root` and its children before two of its steps."""

    def __init__(self, model: nn.Module, *, root: int, steps: tuple[int, int], file: Path) -> None:
        super().__init__()
        self.model, self.root, self.steps, self.file, self.passes = model, root, steps, file, 0
        self.num_classes = model.num_classes

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        if self.training:
            if self.passes in self.steps:
                with self.file.open("a") as file:
                    file.write(json.dumps([time.time(), cpu_seconds(self.root)]) + "\n")
            self.passes += 1
        losses: dict[str, Tensor] = self.model.losses(batch)
        return losses

    def detect(self, batch: Batch) -> Detections:
        found: Detections = self.model.detect(batch)
        return found


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


def measured(way: str, overrides: list[str], folder: Path, *, threads: int) -> tuple[float, float]:
    """Seconds and CPU seconds of a step."""
    own = {
        "bare": ["cluster=local", "tracking.enabled=false"],
        "fit": ["cluster=local", "tracking.enabled=false", "engine.checkpoint_every=1000000"],
        "local": ["cluster=local"],
        "ray": [],
    }[way]
    run = Path(tempfile.mkdtemp(prefix=way, dir=folder))
    command = [sys.executable, __file__, "--way", way, "--file", str(run / "times"), *overrides, *own]
    command += [f"run_dir={run}", f"tracking.uri=sqlite:///{folder}/mlflow.db", "engine.device=cpu"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    (begin, cpu_begin), (end, cpu_end) = map(json.loads, (run / "times").read_text().splitlines())
    steps = load(overrides).engine.steps - 1 - FIRST
    return (end - begin) / steps, (cpu_end - cpu_begin) / steps


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
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        overrides.append(f"data.shards={folder}/shards")
        ensure_shards(load(overrides))
        for number in range(arguments.runs):
            for way in ways:
                found[way].append(measured(way, overrides, Path(folder), threads=arguments.threads))
                seconds, cpu = found[way][-1]
                print(f"run {number + 1}, {way}: {1e3 * seconds:.1f} ms a step, {1e3 * cpu:.1f} ms of CPU", flush=True)
    report(found, file=arguments.json)


def report(found: dict[str, list[tuple[float, float]]], *, file: Path | None) -> None:
    base, *others = found
    medians = {way: [statistics.median(values) for values in zip(*runs, strict=True)] for way, runs in found.items()}
    rows: list[dict[str, Any]] = []
    print(f"{'case':<24}{'unit':<6}{'ours':>9}{'bare':>9}{'over %':>8}")
    for way in others:
        for index, what in enumerate(("clock", "CPU")):
            ours, theirs = (1e3 * medians[name][index] for name in (way, base))
            over = 100 * (ours / theirs - 1)
            print(f"{f'{way}, {what}':<24}{'ms':<6}{ours:>9.1f}{theirs:>9.1f}{over:>8.2f}")
            bar = BAR_PERCENT if way == "ray" else None
            row = {"case": f"{way}, {what} of a step", "unit": "ms", "ours": ours, "theirs": theirs}
            rows.append({**row, "ratio": theirs / ours, "bar": bar, "met": bar and over <= bar})
    if file:
        file.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
