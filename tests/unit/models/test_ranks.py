"""The same global batch on one rank and on two: the same losses and gradients, in float64."""

import copy
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from small_detectors import NUM_CLASSES, SMALL
from torch import Tensor, nn

from detcore.losses import normalizer
from detcore.models import build_model
from detcore.structures.batch import Batch

RANKS = 2


class Losses(nn.Module):
    """DDP hooks into forward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.model.losses(batch)


class Threads:
    """The calls of torch.distributed that the losses make, between threads that stand for ranks."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(RANKS)
        self.shares: list[Tensor] = []

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return RANKS

    def all_reduce(self, tensor: Tensor) -> None:
        self.barrier.wait(timeout=60)
        self.shares.append(tensor.clone())
        self.barrier.wait(timeout=60)
        tensor.copy_(sum(self.shares))
        if self.barrier.wait(timeout=60) == 0:
            self.shares.clear()


def losses_and_gradient(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    losses = model(batch)
    sum(losses.values()).backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return {name: loss.detach() for name, loss in losses.items()} | {"gradient": gradient}


@pytest.fixture
def uneven_batch(make_batch: Callable[..., Batch]) -> Batch:
    """Of its four images, the second half holds one without objects and one that is no image."""
    batch = make_batch(images=4)
    valid, real = batch.targets.valid.clone(), batch.real.clone()
    valid[2:], real[3] = False, False
    return replace(batch, images=batch.images.double(), real=real, targets=replace(batch.targets, valid=valid))


@pytest.fixture
def shares(uneven_batch: Batch, rows_of: Callable[[Batch, list[int]], Batch]) -> list[Batch]:
    return [rows_of(uneven_batch, [0, 1]), rows_of(uneven_batch, [2, 3])]


def assert_equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=name)


CASCADE = {
    "type": "cascade",
    "fc_channels": 32,
    "class_loss": "sigmoid",
    "box_loss": "giou",
    "federated": {"num_classes_per_image": 2, "class_counts": (1, 2, 3)},
}


@pytest.mark.parametrize("sections", [{}, {"box_head": CASCADE}])
def test_mean_over_ranks_is_the_whole_batch_s(
    sections: dict[str, object],
    make_model: Callable[..., nn.Module],
    uneven_batch: Batch,
    shares: list[Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Losses(make_model(**sections).double())
    expected = losses_and_gradient(copy.deepcopy(model), uneven_batch)
    monkeypatch.setattr(normalizer, "dist", Threads())
    with ThreadPoolExecutor(RANKS) as pool:
        ranks = list(pool.map(losses_and_gradient, [copy.deepcopy(model) for _ in range(RANKS)], shares))
    assert_equal({name: sum(rank[name] for rank in ranks) / RANKS for name in expected}, expected)


def run_rank(rank: int, folder: str, model: nn.Module, shares: list[Batch]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    # Without find_unused_parameters it waits for every parameter on every rank.
    found = losses_and_gradient(nn.parallel.DistributedDataParallel(model), shares[rank])
    for name, value in found.items():
        if name != "gradient":  # which DDP has averaged
            dist.all_reduce(value)
            value /= RANKS
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_ddp_over_two_processes_equals_one(
    make_model: Callable[..., nn.Module], uneven_batch: Batch, shares: list[Batch], tmp_path: Path
) -> None:
    model = Losses(make_model().double())
    mp.spawn(run_rank, args=(str(tmp_path), model, shares), nprocs=RANKS)
    assert_equal(torch.load(tmp_path / "found.pt", weights_only=True), losses_and_gradient(model, uneven_batch))


@pytest.mark.parametrize("name", ["retinanet", "fcos", "keypoint_rcnn"])
def test_mean_over_ranks_of_other_families(
    name: str, uneven_batch: Batch, shares: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = Losses(build_model(SMALL[name], num_classes=NUM_CLASSES).double())
    expected = losses_and_gradient(copy.deepcopy(model), uneven_batch)
    monkeypatch.setattr(normalizer, "dist", Threads())
    with ThreadPoolExecutor(RANKS) as pool:
        ranks = list(pool.map(losses_and_gradient, [copy.deepcopy(model) for _ in range(RANKS)], shares))
    assert_equal({name: sum(rank[name] for rank in ranks) / RANKS for name in expected}, expected)
