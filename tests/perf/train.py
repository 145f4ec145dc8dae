"""Training steps of four detectors against Detectron2's, and against what their dense layers alone would allow.

    python tests/perf/train.py [--case NAME] [--ceiling] [--predict] [--json FILE] [--device cuda|cpu] [overrides…]

The work is that of Detectron2's figures: batches of 16 images, multi-scale 640 to 800, 0.67 Mpx and 7.3 objects on
average, random weights, frozen norms, the first two stages of the backbone frozen, SGD. Its figures (fp16, NCHW) were
taken on one H100 and are not measured anew. Each detector is measured in a process of its own. Memory is the most that
tensors took up, without the synthetic batches, which all stay on the device.

The ceiling is forward and backward of the dense layers alone, compiled by torch.compile for one shape, the bucket that
comes most often: backbone, neck, RPN, and the heads on pooled features that are there already. The whole step in the
same bucket stands beside it.

Predicting is `model.detect` in bf16 on a batch that is on the device, of images of 480 x 640 pixels at a shortest side
of 800; all shapes are static, so that random weights cost what others do but for suppression.
"""

import argparse
import json
import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from detcore.bench.device import seconds_of
from detcore.bench.prediction import DETECTIONS, bench_prediction, random_predictor
from detcore.bench.setting import bench_config
from detcore.bench.showing import training_shown
from detcore.bench.source import classes_of, random_model, synthetic_source
from detcore.bench.training import TrainingReport, bench_training
from detcore.config import Config
from detcore.data.buckets import Shape
from detcore.engine import Precision
from detcore.engine.build import build_training
from detcore.engine.step import train_step
from detcore.models.faster_rcnn import FasterRCNN
from detcore.models.heads.cascade_head import CascadeHead
from detcore.recipes import parsed_size

AS_DETECTRON2 = {
    "engine": "fast",
    "optim": "sgd",
    "data.num_buckets": "10",
    "model.backbone.norm": "frozen_bn",
    "model.backbone.frozen_stages": "2",
    "model.backbone.weights": "not-read",  # frozen norms are refused without
}
CEILING_BAR = 75.0
MEMORY_FACTOR = 1.25


@dataclass(frozen=True)
class Case:
    """A recipe, Detectron2's images/s and GB in fp16 on one H100, and images/s at least.

    `predicts_in_ms` is how long Detectron2 takes to predict, by batch size.
    """

    recipe: str
    theirs: float
    their_memory: float
    bar: float
    predicts_in_ms: dict[int, float] = field(default_factory=dict)


CASES = (
    Case("mask_rcnn_r50_fpn", 57.5, 8.4, 200.0, {1: 19.0, 8: 57.0}),
    Case("faster_rcnn_r50_fpn", 69.3, 8.4, 260.0),
    Case("retinanet_r50_fpn", 99.2, 23.0, 230.0),
    Case("cascade_mask_rcnn_r50_fpn", 43.0, 8.8, 165.0),
)


class DenseLayers(nn.Module):
    """All learnt layers of a detector, on images and on pooled features; a sum of all that they give.

    Args:
        model: RetinaNet, or of two stages with box heads that pool from a pyramid.
        batch_size: of the images.
    """

    def __init__(self, model: nn.Module, *, batch_size: int) -> None:
        super().__init__()
        self.model = model
        if not isinstance(model, FasterRCNN):
            return
        sampler, device = model.region_sampler, next(model.parameters()).device
        regions = sampler.samples_per_image
        slots = int(regions * sampler.positive_fraction)
        heads = model.box_head.stages if isinstance(model.box_head, CascadeHead) else [model.box_head]
        self.heads: list[Any] = list(heads)
        self.boxes = torch.zeros(batch_size, regions, 4, device=device)
        self.valid = torch.ones(batch_size, regions, dtype=torch.bool, device=device)
        for head in self.heads:
            side = head.pooler_resolution
            head.pool = _Given((batch_size * regions, model.neck.channels, side, side), device)
        self.mask_head: Any = getattr(model, "mask_head", None)
        if self.mask_head is not None:
            side = self.mask_head.pooler_resolution
            self.of_masks = _Given((batch_size * slots, model.neck.channels, side, side), device)
            self.labels = torch.zeros(batch_size, slots, dtype=torch.int64, device=device)

    def forward(self, images: Tensor) -> Tensor:
        dense: Any = self.model.dense(images)  # type: ignore[operator]
        if not isinstance(self.model, FasterRCNN):
            return _sum(dense.logits, dense.offsets)
        features, predictions = dense
        given = [*features, predictions.logits, predictions.offsets]
        for head in self.heads:
            hidden = head.hidden([], self.boxes, self.valid)
            given += [head.class_logits(hidden), head.box_offsets(hidden)]
        if self.mask_head is not None:
            given.append(self.mask_head.masks_of(self.of_masks(), self.labels))
        return _sum(*given)


class _Given(nn.Module):
    """Features in place of pooling; they want a gradient as those that were pooled from the pyramid do."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        pooled = torch.randn(shape, device=device, dtype=torch.bfloat16)
        self.pooled = nn.Parameter(pooled.contiguous(memory_format=torch.channels_last))

    def forward(self, *_: object, **__: object) -> Tensor:
        return self.pooled


def _sum(*tensors: Tensor) -> Tensor:
    return torch.stack([tensor.sum(dtype=torch.float32) for tensor in tensors]).sum()


@dataclass(frozen=True)
class Asked:
    """What the command line says."""

    device: str
    ceiling: bool
    predict: bool
    size: Shape | None
    steps: int
    rounds: int
    overrides: tuple[str, ...]

    def config(self, case: Case) -> Config:
        stated = {override.partition("=")[0] for override in self.overrides}
        own = [f"{key}={value}" for key, value in AS_DETECTRON2.items() if key not in stated]
        return bench_config(case.recipe, [*own, *self.overrides], device=torch.device(self.device), batch_size=None)


def measured(case: Case, asked: Asked) -> tuple[TrainingReport, list[dict[str, Any]]]:
    """The report of a detector, and its rows."""
    device, config = torch.device(asked.device), asked.config(case)
    sizes = None if asked.size is None else [asked.size]
    report = bench_training(config, device=device, sizes=sizes, steps=asked.steps, rounds=asked.rounds)
    rows = [row(case.recipe, "images/s", report.images_per_second, theirs=case.theirs, bar=case.bar)]
    if report.memory_allocated_gib is not None:
        memory = report.memory_allocated_gib - report.batches_gib
        bar = MEMORY_FACTOR * case.their_memory
        rows.append(row(case.recipe, "GiB", memory, theirs=case.their_memory, bar=bar, at_most=True))
        rows.append(row(f"{case.recipe}: reserved", "GiB", report.memory_reserved_gib - report.batches_gib))
    if asked.predict and case.predicts_in_ms:
        rows += prediction_rows(case, config, device=device, calls=asked.steps)
    if asked.ceiling:
        height, width = map(int, max(report.buckets, key=report.buckets.__getitem__).split("x"))
        step, dense = (
            rate((height, width), config, device=device, asked=asked) for rate in (step_rate, dense_layers_rate)
        )
        name = f"{case.recipe} in {height}x{width}"
        rows += [
            row(f"{name}: whole step", "images/s", step),
            row(f"{name}: dense layers alone, compiled", "images/s", dense),
            row(f"{name}: step over dense layers", "%", 100 * step / dense, bar=CEILING_BAR),
        ]
    return report, rows


def prediction_rows(case: Case, config: Config, *, device: torch.device, calls: int) -> list[dict[str, Any]]:
    """Of detections in bf16, launched as they are fastest without a compiler."""
    predictor = random_predictor(config, device=device, precision="bf16")
    sizes = sorted(case.predicts_in_ms)
    report = bench_prediction(predictor, name=case.recipe, batch_sizes=sizes, calls=calls)
    rows = []
    for size in sizes:
        best = min(
            (line for line in report.rows if line.batch_size == size and line.part == DETECTIONS),
            key=lambda line: line.latency_ms,
        )
        theirs = case.predicts_in_ms[size]
        name = f"{case.recipe}: predicting, batch {size}, {report.padded}, {best.way}"
        rows.append(row(name, "ms", best.latency_ms, theirs=theirs, bar=theirs / 2, at_most=True))
    return rows


def step_rate(bucket: Shape, config: Config, *, device: torch.device, asked: Asked) -> float:
    """Images/s of whole steps in one bucket."""
    precision = Precision(name=config.engine.precision, device=device)
    model = random_model(config, num_classes=classes_of(config, None), device=device).train()
    source = synthetic_source(model, config=config, precision=precision, sizes=[bucket], steps=asked.steps)
    training = build_training(model, config=config, precision=precision, shapes=source.shapes)
    return _rate(lambda: train_step(training, source.feed, 0), config, device, asked)


def dense_layers_rate(bucket: Shape, config: Config, *, device: torch.device, asked: Asked) -> float:
    """Images/s of forward and backward of the dense layers, compiled for one bucket."""
    precision = Precision(name=config.engine.precision, device=device)
    model = random_model(config, num_classes=classes_of(config, None), device=device).train()
    source = synthetic_source(model, config=config, precision=precision, sizes=[bucket], steps=1)
    images = next(source.feed).images
    layers = DenseLayers(model, batch_size=len(images))
    compiled = torch.compile(layers, dynamic=False)

    def work() -> None:
        layers.zero_grad(set_to_none=True)
        with precision.autocast():
            total = compiled(images)
        total.backward()

    return _rate(work, config, device, asked)


def _rate(work: Any, config: Config, device: torch.device, asked: Asked) -> float:
    def steps() -> None:
        for _ in range(asked.steps):
            work()

    steps()
    seconds = statistics.median(seconds_of(steps, device) for _ in range(asked.rounds))
    return config.engine.batch_size * asked.steps / seconds


def row(
    case: str, unit: str, ours: float, *, theirs: float | None = None, bar: float | None = None, at_most: bool = False
) -> dict[str, Any]:
    ratio = None if theirs is None else ours / theirs
    met = None if bar is None else ours <= bar if at_most else ours >= bar
    return {"case": case, "unit": unit, "ours": ours, "theirs": theirs, "ratio": ratio, "bar": bar, "met": met}


def shown(line: dict[str, Any]) -> str:
    cells = (("ours", 9), ("theirs", 12), ("ratio", 7), ("bar", 8))
    numbers = "".join(f"{'' if line[key] is None else format(line[key], '.2f'):>{width}}" for key, width in cells)
    return f"{line['case']:<72}{line['unit']:<9}{numbers}{'  missed' if line['met'] is False else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="", help="only recipes whose name contains this")
    parser.add_argument("--ceiling", action="store_true", help="also the dense layers alone; compiles for minutes")
    parser.add_argument("--predict", action="store_true", help="also Mask R-CNN's predictions")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--size", metavar="HxW", help="of all images, to try this out: no bar is for it")
    parser.add_argument("--steps", type=int, default=32, help="of a round (default: 32)")
    parser.add_argument("--rounds", type=int, default=3, help="that are timed (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the table's rows to FILE")
    arguments, overrides = parser.parse_known_args()
    asked = Asked(
        device=arguments.device,
        ceiling=arguments.ceiling,
        predict=arguments.predict,
        size=None if arguments.size is None else parsed_size(arguments.size),
        steps=arguments.steps,
        rounds=arguments.rounds,
        overrides=tuple(overrides),
    )
    console, rows, failed = Console(width=120), list[dict[str, Any]](), []
    for case in CASES:
        if arguments.case not in case.recipe:
            continue
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as alone:
            try:
                report, own = alone.submit(measured, case, asked).result()
            except Exception as error:  # the others are measured all the same
                failed.append(f"{case.recipe}: {error}")
                print(failed[-1], flush=True)
                continue
        rows += own
        if arguments.json:
            arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
        console.print(training_shown(report), "")
    print(f"\n{'case':<72}{'unit':<9}{'ours':>9}{'Detectron2':>12}{'ratio':>7}{'bar':>8}")
    print("\n".join(map(shown, rows)))
    if failed:
        raise SystemExit(f"not measured: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
