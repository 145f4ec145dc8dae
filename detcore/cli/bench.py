"""Commands that measure how fast a model is on this machine."""

import argparse
import sys
from contextlib import ExitStack, closing, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from detcore.cli.commands import Answer, Commands

if TYPE_CHECKING:
    import torch

    from detcore.inference import Predictor

_BENCH = """\
  detcore bench train mask_rcnn_r50_fpn
  detcore bench predict mask_rcnn_r50_fpn --precision bf16"""
_TRAIN = """\
  detcore bench train mask_rcnn_r50_fpn
  detcore bench train mask_rcnn_r50_fpn --batch-size 8 --size 800x1216 engine.cuda_graphs=false
  detcore bench train digits_mask_rcnn --data digits --device cpu --steps 4
  detcore bench train retinanet_r50_fpn model.backbone.norm=frozen_bn model.backbone.weights=not-read --json"""
_PREDICT = """\
  detcore bench predict mask_rcnn_r50_fpn --precision bf16 --compile
  detcore bench predict runs/bccd/model --image scan.png
  detcore bench predict digits_mask_rcnn --device cpu --calls 3 --json"""


def declare(commands: Commands) -> None:
    """Adds the commands."""
    bench = commands.group("bench", "measure how fast a model trains and predicts here", examples=_BENCH)
    summary = "measure training steps: images a second, the time of each part, arithmetic, waits, kernels, memory"
    train = bench.add("train", summary, _train, examples=_TRAIN, answers=True)
    train.add_argument("model", metavar="MODEL", help="a recipe of conf/model; its weights are random")
    _about_both(train)
    train.add_argument("--batch-size", type=int, help="images a step (default: engine.batch_size; on a CPU 2)")
    train.add_argument("--buckets", type=int, help="shapes of batches, at most (default: data.num_buckets)")
    train.add_argument("--size", metavar="HxW", help="synthetic images of one size (default: multi-scale, as COCO's)")
    train.add_argument("--data", metavar="NAME", help="real images by the real loader: a recipe of conf/data")
    train.add_argument("--steps", type=int, help="of a round (default: 32, on a CPU 4)")
    train.add_argument("--rounds", type=int, default=3, help="that are timed (default: 3)")

    summary = "measure predictions: latency and throughput of the dense layers, of detections, and of all"
    predict = bench.add("predict", summary, _predict, examples=_PREDICT, answers=True)
    predict.add_argument("model", metavar="MODEL", help="a recipe of conf/model; a published folder, or name@alias")
    _about_both(predict)
    predict.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="default: fp32")
    predict.add_argument("--batch-sizes", type=int, nargs="+", metavar="N", default=[1, 8], help="default: 1 8")
    predict.add_argument("--image", metavar="FILE", type=Path, help="that is looked at (default: noise, 480x640)")
    predict.add_argument("--compile", action="store_true", help="also compiled, which takes minutes")
    predict.add_argument("--calls", type=int, help="that a time is the median of (default: 30, on a CPU 5)")


def _about_both(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="of the configuration, for a recipe")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 … (default: auto)")


def _train(options: argparse.Namespace) -> Answer:
    from detcore.bench.setting import bench_config
    from detcore.bench.showing import training_shown
    from detcore.bench.training import bench_training
    from detcore.data import ShardedSplit
    from detcore.inference.folder import chosen_device
    from detcore.launch.training import ensure_shards
    from detcore.recipes import parsed_size

    _positive(options, "batch_size", "buckets", "steps", "rounds")
    if options.size and options.data:
        raise ValueError("--size is of synthetic images; with --data, sizes are as data.train_transforms makes them")
    sizes = None if options.size is None else [parsed_size(options.size)]
    device = chosen_device(options.device)
    buckets = [] if options.buckets is None else [f"data.num_buckets={options.buckets}"]
    config = bench_config(
        options.model,
        [*options.overrides, *buckets],
        device=device,
        batch_size=options.batch_size,
        data=options.data or "",
    )
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))  # what is said on the way is no part of a report
        split = None
        if options.data:
            ensure_shards(config)
            split = stack.enter_context(
                closing(ShardedSplit.open(config.data.shards, "train", store=config.data.store))
            )
        steps = options.steps or (32 if device.type == "cuda" else 4)
        report = bench_training(config, device=device, sizes=sizes, steps=steps, rounds=options.rounds, split=split)
    return Answer(facts=asdict(report), text=training_shown(report))


def _predict(options: argparse.Namespace) -> Answer:
    from detcore.bench.prediction import bench_prediction
    from detcore.bench.showing import prediction_shown
    from detcore.inference.folder import chosen_device
    from detcore.inference.sources import read_rgb

    _positive(options, "batch_sizes", "calls")
    image = None if options.image is None else read_rgb(options.image)  # a misspelt path is told before all else
    predictor = _predictor(options, chosen_device(options.device))
    report = bench_prediction(
        predictor,
        name=options.model,
        image=image,
        batch_sizes=options.batch_sizes,
        compiled=options.compile,
        calls=options.calls or (30 if predictor.device.type == "cuda" else 5),
    )
    return Answer(facts=asdict(report), text=prediction_shown(report))


def _predictor(options: argparse.Namespace, device: "torch.device") -> "Predictor":
    """Of a recipe, with random weights; or a published one."""
    import detcore
    from detcore import recipes
    from detcore.bench.prediction import random_predictor
    from detcore.bench.setting import bench_config

    if options.model in (path.stem for path in recipes.files()):
        config = bench_config(options.model, options.overrides, device=device)
        return random_predictor(config, device=device, precision=options.precision)
    if options.overrides:
        raise ValueError(f"{options.model} is no recipe of conf/model: {options.overrides[0]} has nothing to change")
    return detcore.load(options.model, device=str(device), precision=options.precision)


def _positive(options: argparse.Namespace, *names: str) -> None:
    for name in names:
        value = getattr(options, name)
        if any(number < 1 for number in (value if isinstance(value, list) else [1 if value is None else value])):
            raise ValueError(f"--{name.replace('_', '-')} {value}: give whole numbers from 1 on")
