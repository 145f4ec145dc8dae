"""How fast a model trains on this device, and what the time of a step goes into."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from detcore.bench.device import GIB, device_name, host_syncs, kernels, matrix_rate, peak_memory, seconds_of
from detcore.bench.flops import flops_of
from detcore.bench.parts import WAITING, part_seconds
from detcore.bench.source import Source, classes_of, loaded_source, random_model, synthetic_source
from detcore.config import Config
from detcore.data import ShardedSplit
from detcore.data.buckets import Shape
from detcore.engine import Precision
from detcore.engine.build import build_training
from detcore.engine.meter import StepRecord
from detcore.engine.passes import Losses, PlainPasses
from detcore.engine.step import Training, train_step

_PROFILED_STEPS = 8


@dataclass(frozen=True, kw_only=True)
class TrainingReport:
    """What was measured. None stands for what a CPU does not have.

    Attributes:
        model, device, torch, data: which; data is 'synthetic' or the name of a data set that was loaded.
        precision, cuda_graphs: the passes, as the engine's settings have them and the device can.
        batch_size, steps, rounds: images a step, steps a round, and rounds that the times are medians of.
        buckets: for each shape of batches its share of the steps; 'HEIGHTxWIDTH' in pixels.
        padding: pixels of batches over those of the images in them, - 1.
        warm_up_seconds: of the first round, in which passes are captured.
        images_per_second, step_ms: of whole rounds, between waits for the device.
        host_ms: of a step: what the host needs to launch it, and waits for data.
        wait_ms: of a step: how long the next batch is waited for.
        shares: of a step, by part; they add up to 1. Waiting is measured in the steps themselves; the rest is divided
            as in plain passes, which are not captured and take `plain_step_ms`.
        step_tflop: arithmetic of a step's forward and backward, the mean over the buckets as often as they come.
        tflops, chip_tflops: a second: of the steps, and of a large matrix product of the same precision.
        host_syncs: waits for the device in a step.
        kernels, kernel_ms: of a step: how many, and their time in all.
        memory_allocated_gib, memory_reserved_gib: at most, of tensors and of what torch had taken for them.
        batches_gib: of this, what the synthetic batches take up, which all stay on the device.
        losses: of the last step.
    """

    model: str
    device: str
    torch: str
    data: str
    precision: str
    cuda_graphs: bool
    batch_size: int
    steps: int
    rounds: int
    buckets: dict[str, float]
    padding: float
    warm_up_seconds: float
    images_per_second: float
    step_ms: float
    host_ms: float
    wait_ms: float
    shares: dict[str, float]
    plain_step_ms: float
    step_tflop: float
    tflops: float
    chip_tflops: float
    host_syncs: float | None
    kernels: float | None
    kernel_ms: float | None
    memory_allocated_gib: float | None
    memory_reserved_gib: float | None
    batches_gib: float
    losses: dict[str, float]

    @property
    def of_chip(self) -> float:
        """The rate over the chip's."""
        return self.tflops / self.chip_tflops


def bench_training(
    config: Config,
    *,
    device: torch.device,
    sizes: Sequence[Shape] | None = None,
    steps: int = 32,
    rounds: int = 3,
    split: ShardedSplit | None = None,
) -> TrainingReport:
    """Trains the configuration's model, from random weights, as the engine does, and measures it.

    Args:
        config: its model, engine and optim sections, and the number of buckets in data; with `split` all of data.
        device: where.
        sizes: heights and widths of synthetic images, in place of COCO's.
        steps: of a round.
        rounds: after one to warm up.
        split: real images through the real loader, in place of synthetic batches.

    Raises:
        ValueError: the model cannot be built from the configuration alone.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    engine, precision = config.engine, Precision(name=config.engine.precision, device=device)
    model = random_model(config, num_classes=classes_of(config, split), device=device).to(precision.dtype).train()
    if split is None:
        source = synthetic_source(model, config=config, precision=precision, sizes=sizes, steps=steps)
    else:
        source = loaded_source(model, config=config, precision=precision, split=split)
    try:
        training = build_training(model, config=config, precision=precision, shapes=source.shapes)
        measured = _as_it_trains(training, source, steps=steps, rounds=rounds, batch_size=engine.batch_size)
        measured["buckets"] = {
            f"{height}x{width}": count / source.feed.shapes.total()
            for (height, width), count in sorted(source.feed.shapes.items())
        }
        # From here on plain passes alone: what was captured goes, with its memory.
        training = replace(training, passes=PlainPasses(Losses(model), precision=precision, accumulate=1))
        wait_share = measured["wait_ms"] / measured["step_ms"]
        measured |= _in_plain_passes(training, source, steps=steps, wait_share=wait_share)
        measured["padding"] = source.feed.padding()
    finally:
        source.close()
    measured["tflops"] = measured["step_tflop"] / measured["step_ms"] * 1e3
    return TrainingReport(
        model=config.model.name,
        device=device_name(device),
        torch=torch.__version__,
        data="synthetic" if split is None else split.name,
        precision=precision.name,
        cuda_graphs=engine.cuda_graphs and device.type == "cuda",
        batch_size=engine.batch_size,
        steps=steps,
        rounds=rounds,
        batches_gib=source.num_bytes / GIB,
        chip_tflops=matrix_rate(device, precision.image_dtype) / 1e12,
        **measured,
    )


def _as_it_trains(training: Training, source: Source, *, steps: int, rounds: int, batch_size: int) -> dict[str, Any]:
    """The report's fields of steps as the engine runs them."""
    device, records = training.precision.device, list[StepRecord]()

    def run(count: int = steps) -> None:
        for _ in range(count):
            records.append(train_step(training, source.feed, len(records)))

    warm_up_seconds = seconds_of(run, device)
    seconds = statistics.median(seconds_of(run, device) for _ in range(rounds)) / steps
    timed = records[steps:]
    memory = peak_memory(device)
    few = min(steps, _PROFILED_STEPS)
    syncs = host_syncs(run, device)
    launched = kernels(lambda: run(few), device)
    return {
        "warm_up_seconds": warm_up_seconds,
        "images_per_second": batch_size / seconds,
        "step_ms": seconds * 1e3,
        "host_ms": statistics.median(record.seconds for record in timed) * 1e3,
        "wait_ms": statistics.mean(record.wait_seconds for record in timed) * 1e3,
        "memory_allocated_gib": None if memory is None else memory[0] / GIB,
        "memory_reserved_gib": None if memory is None else memory[1] / GIB,
        "host_syncs": None if syncs is None else syncs / steps,
        "kernels": None if launched is None else launched[0] / few,
        "kernel_ms": None if launched is None else launched[1] / few * 1e3,
        "losses": {name: float(loss) for name, loss in records[-1].losses.items()},
    }


def _in_plain_passes(training: Training, source: Source, *, steps: int, wait_share: float) -> dict[str, Any]:
    """The report's fields that operators have to be told apart for."""
    device, seen = training.precision.device, source.feed.shapes
    if device.type == "cuda":
        torch.cuda.empty_cache()
        part_seconds(training, source.feed, steps=steps, device=device)  # new shapes need memory, which takes time
    spent = part_seconds(training, source.feed, steps=steps, device=device)
    del spent[WAITING]
    busy = sum(spent.values())
    flops: dict[Shape, int] = {}
    for _ in range(steps):
        batch = next(source.feed)
        height, width = batch.images.shape[-2:]
        if (height, width) not in flops:
            flops[height, width] = flops_of(partial(training.passes, batch, last=True))
    per_pass = sum(seen[shape] * count for shape, count in flops.items()) / sum(seen[shape] for shape in flops)
    return {
        "shares": {part: seconds / busy * (1 - wait_share) for part, seconds in spent.items()} | {WAITING: wait_share},
        "plain_step_ms": busy / steps * 1e3,
        "step_tflop": per_pass * training.accumulate / 1e12,
    }
