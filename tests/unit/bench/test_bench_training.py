"""What is measured of a training fits together, for detectors of several kinds."""

import math
from contextlib import closing
from pathlib import Path

import pytest
import torch
from small_detectors import NUM_CLASSES, SMALL
from tiny_training import scenes, write_split
from torch import Tensor

from detcore.bench.device import host_syncs, kernels, matrix_rate
from detcore.bench.flops import flops_of
from detcore.bench.parts import BACKWARD, DENSE, HEADS, LOSSES, PARTS, PROPOSALS, WAITING
from detcore.bench.setting import bench_config
from detcore.bench.stopwatch import Stopwatch
from detcore.bench.training import bench_training
from detcore.config import Config
from detcore.config.transforms import ResizeShortestEdge
from detcore.data import ShardedSplit
from detcore.ops import deform_conv2d

CPU = torch.device("cpu")
TWO_STAGE, ONE_STAGE, OF_PIXELS = {DENSE, PROPOSALS, HEADS, LOSSES}, {DENSE, LOSSES}, {DENSE, LOSSES}


def small(name: str) -> Config:
    config = bench_config("mask_rcnn_r50_fpn", device=CPU)
    model = SMALL[name]
    classes = model.num_classes or NUM_CLASSES
    return config.model_copy(update={"model": model.model_copy(update={"num_classes": classes})})


@pytest.mark.parametrize(
    ("name", "forward"),
    [
        ("mask_rcnn", TWO_STAGE),
        ("mask_rcnn_c4", TWO_STAGE),
        ("keypoint_rcnn", TWO_STAGE),
        ("panoptic_fpn", TWO_STAGE),
        ("rotated_retinanet", ONE_STAGE),
        ("deeplab", OF_PIXELS),
    ],
)
def test_a_report_fits_together(name: str, forward: set[str]) -> None:
    report = bench_training(small(name), device=CPU, sizes=[(64, 96), (96, 64)], steps=2, rounds=1)
    assert set(report.shares) == set(PARTS)
    assert sum(report.shares.values()) == pytest.approx(1)
    assert {part for part in (DENSE, PROPOSALS, HEADS, LOSSES) if report.shares[part] > 0} == forward
    assert report.shares[BACKWARD] > 0 and report.shares[WAITING] == 0
    assert report.images_per_second == pytest.approx(2 / report.step_ms * 1e3)
    assert report.tflops == pytest.approx(report.step_tflop / report.step_ms * 1e3) and report.tflops > 0
    assert report.buckets == {"64x96": 0.5, "96x64": 0.5} and report.padding == 0
    assert report.host_syncs is report.kernels is report.memory_allocated_gib is None
    assert all(math.isfinite(loss) for loss in report.losses.values())


def test_the_real_loader_is_waited_for(tmp_path: Path) -> None:
    write_split(scenes(8, seed=1), tmp_path, split="train", categories=("bright", "dark"), name="squares")
    config = bench_config("mask_rcnn_r50_fpn", device=CPU)
    resize = ResizeShortestEdge(sizes=(64,), max_size=96)
    data = config.data.model_copy(update={"train_transforms": (resize,), "threads": 1})
    model = SMALL["faster_rcnn"].model_copy(update={"num_classes": 2})
    engine = config.engine.model_copy(update={"accumulate": 2})
    config = config.model_copy(update={"data": data, "model": model, "engine": engine})
    with closing(ShardedSplit.open(tmp_path, "train")) as split:
        report = bench_training(config, device=CPU, split=split, steps=1, rounds=1)
    assert report.data == "squares" and report.batches_gib == 0
    assert report.wait_ms > 0 and report.shares[WAITING] == pytest.approx(report.wait_ms / report.step_ms)
    assert sum(report.shares.values()) == pytest.approx(1)
    assert report.padding >= 0


def test_a_published_model_is_refused() -> None:
    with pytest.raises(ValueError, match="no overrides here"):
        bench_config("mask_rcnn_r50_fpn", ["data=coco"], device=CPU)


def test_time_belongs_to_the_innermost_part() -> None:
    stopwatch = Stopwatch(CPU)
    ticks = iter(range(10))
    stopwatch._now = lambda: float(next(ticks))  # type: ignore[method-assign]
    with stopwatch.part("outer"):  # 0
        with stopwatch.part("inner"):  # 1
            pass  # 2
        with pytest.raises(KeyError), stopwatch.part("inner"):  # 3
            raise KeyError  # 4
    # 5
    stopwatch.timed("later", lambda: None)()  # 6, 7
    assert stopwatch.seconds() == {"outer": 3.0, "inner": 2.0, "later": 1.0}


def test_arithmetic_of_forward_and_backward() -> None:
    """Backward multiplies twice for each product of forward: for the gradients of what went in and of the weight."""
    layer, x = torch.nn.Conv2d(4, 8, 3, padding=1, bias=False), torch.rand(2, 4, 10, 12, requires_grad=True)
    forward = 2 * (2 * 8 * 10 * 12) * (4 * 3 * 3)
    assert flops_of(lambda: layer(x)) == forward
    assert flops_of(lambda: layer(x).sum().backward()) == 3 * forward


def test_arithmetic_of_our_own_convolutions() -> None:
    forward = 2 * (2 * 16 * 10 * 12) * (8 * 3 * 3)
    with torch.device("meta"):
        x, weight, bias = torch.empty(2, 8, 10, 12), torch.empty(16, 8, 3, 3), torch.empty(16)
        offset = torch.empty(2, 18, 10, 12)
    leaves = [tensor.requires_grad_() for tensor in (x, weight, offset)]

    def fused() -> Tensor:
        out: Tensor = torch.ops.detcore.conv2d_act(x, weight, bias, None, [1, 1], [1, 1], [1, 1], 1, True)
        return out

    for call in (fused, lambda: deform_conv2d(x, offset, weight, padding=1)):
        assert flops_of(call) == forward
        assert flops_of(lambda call=call: torch.autograd.grad(call().sum(), leaves, allow_unused=True)) == 3 * forward


def test_a_cpu_is_the_host() -> None:
    assert matrix_rate(CPU, torch.float32) > 0
    assert host_syncs(lambda: None, CPU) is kernels(lambda: None, CPU) is None


@pytest.mark.gpu
def test_waits_and_kernels_are_counted() -> None:
    device = torch.device("cuda")
    x = torch.rand(1000, device=device)
    assert host_syncs(lambda: [x.sum().item() for _ in range(3)], device) == 3
    assert host_syncs(lambda: x.sum(), device) == 0
    counted = kernels(lambda: [torch.neg(x) for _ in range(5)], device)
    assert counted is not None and counted[0] == 5 and counted[1] > 0


@pytest.mark.gpu
def test_a_captured_training_is_measured() -> None:
    config = small("mask_rcnn")
    engine = config.engine.model_copy(update={"precision": "bf16", "cuda_graphs": True})
    config = config.model_copy(update={"engine": engine})
    report = bench_training(config, device=torch.device("cuda"), sizes=[(64, 96)], steps=2, rounds=1)
    assert report.cuda_graphs and report.host_syncs == 0
    assert report.kernels and report.kernels > 100
    assert report.memory_allocated_gib and report.memory_reserved_gib >= report.memory_allocated_gib
    assert sum(report.shares.values()) == pytest.approx(1)
