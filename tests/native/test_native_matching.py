"""Expected values: the reference in detcore/ops, on the CPU. They are equal to the last bit, as IoUs are compared."""

import pytest
import torch
from torch import Tensor
from unattended import assert_runs_unattended, needs_cuda

from detcore import ops
from detcore.ops.matching import match_anchors_reference

Thresholds = tuple[float, float]
INF, NAN = torch.inf, torch.nan


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(11)


def boxes(generator: torch.Generator, *shape: int, extent: float = 90) -> Tensor:
    low = torch.rand((*shape, 2), generator=generator) * extent
    return torch.cat((low, low + torch.rand((*shape, 2), generator=generator) * 60), dim=-1)


def on_a_grid(generator: torch.Generator, *shape: int) -> Tensor:
    """Whole coordinates in a small place: many pairs have one and the same IoU, many boxes are twins."""
    low = torch.randint(0, 12, (*shape, 2), generator=generator)
    return torch.cat((low, low + torch.randint(0, 7, (*shape, 2), generator=generator)), dim=-1).float()


def assert_equals_the_reference(
    device: str, anchors: Tensor, truth: Tensor, valid: Tensor, thresholds: Thresholds, low_quality: bool
) -> Tensor:
    """Returns the statuses."""
    got = ops.match_anchors(anchors.to(device), truth.to(device), valid.to(device), thresholds, low_quality)
    shared = anchors[None] if anchors.dim() == 2 else anchors
    want = match_anchors_reference(shared, truth, valid, thresholds, low_quality)
    for one, other in zip(got, want, strict=True):
        assert one.device.type == device and one.dtype == other.dtype and torch.equal(one.cpu(), other)
    return want[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("make", [boxes, on_a_grid])
@pytest.mark.parametrize("shared", [False, True])
def test_equals_the_reference(
    device: str, generator: torch.Generator, make: object, low_quality: bool, shared: bool, dtype: torch.dtype
) -> None:
    # More anchors than one block or strip holds, and not a multiple of anything.
    shape = (5003,) if shared else (3, 5003)
    anchors, truth = make(generator, *shape).to(dtype), make(generator, 3, 41).to(dtype)  # type: ignore[operator]
    valid = torch.rand((3, 41), generator=generator) < 0.7
    valid[1] = False
    status = assert_equals_the_reference(device, anchors, truth, valid, (0.3, 0.5), low_quality)
    assert all((status == kind).any() for kind in (1, 0, -1))
    # Thresholds of 0 make every anchor positive, but none where nothing is valid.
    status = assert_equals_the_reference(device, anchors, truth, valid, (0.0, 0.0), low_quality)
    assert not status[1].any() and status[0].all()


@pytest.mark.parametrize("make", [boxes, on_a_grid])
def test_more_ground_truths_than_a_block_takes_at_once(device: str, generator: torch.Generator, make: object) -> None:
    anchors, truth = make(generator, 1500), make(generator, 2, 600)  # type: ignore[operator]
    valid = torch.rand((2, 600), generator=generator) < 0.9
    valid[1, 10:590] = False
    assert_equals_the_reference(device, anchors, truth, valid, (0.3, 0.9), True)


def test_a_low_quality_match_may_lie_in_any_strip(device: str) -> None:
    # One far anchor of 20,000 is the best, with an IoU of 1/4, of the only truth; its twins elsewhere are as good.
    anchors = torch.tensor([0.0, 0, 1, 1]).repeat(20_000, 1)
    for place in (0, 1023, 1024, 12_345, 19_999):
        anchors[place] = torch.tensor([100.0, 100, 105, 105])
    truth = torch.tensor([[[100.0, 100, 110, 110]]])
    status = assert_equals_the_reference(device, anchors, truth, torch.ones(1, 1).bool(), (0.3, 0.7), True)
    assert status[0].nonzero()[:, 0].tolist() == [0, 1023, 1024, 12_345, 19_999]


def test_undefined_and_extreme_boxes(device: str, generator: torch.Generator) -> None:
    anchors, truth = boxes(generator, 2000), boxes(generator, 2, 40)
    for values in (anchors, truth[0], truth[1]):
        for row, column, value in ((1, 0, NAN), (2, 2, INF), (3, 1, -INF), (4, 3, NAN), (9, 2, INF)):
            values[row, column] = value
        values[9, 0] = -INF
        values[5] = 0  # a point
        values[6, :2], values[6, 2:] = values[6, 2:].clone(), values[6, :2].clone()  # inside out
        values[7] = torch.tensor([-3e38, -3e38, 3e38, 3e38])  # its sides overflow
        values[8] = torch.tensor([-1e19, -1e19, 1e19, 1e19])
        values[10] = torch.tensor([0, 0, 3e-23, 3e-23])  # its area is denormal
        values[11] = torch.tensor([0, 0, 4e-23, 3e-23])
        values[12] = torch.tensor([NAN, NAN, NAN, NAN])
    valid = torch.ones((2, 40), dtype=torch.bool)
    for low_quality in (False, True):
        assert_equals_the_reference(device, anchors, truth, valid, (0.3, 0.7), low_quality)
    for first in range(13):
        assert_equals_the_reference(
            device, anchors[: first + 1], truth[:, first : first + 1], valid[:, :1], (0.3, 0.7), True
        )


@pytest.mark.parametrize(("batch", "anchors", "truths"), [(0, 5, 3), (2, 0, 3), (2, 5, 0), (1, 1, 1), (0, 0, 0)])
def test_empty_and_single(device: str, generator: torch.Generator, batch: int, anchors: int, truths: int) -> None:
    for low_quality in (False, True):
        for shape in ((anchors,), (batch, anchors)):
            own, truth = boxes(generator, *shape), boxes(generator, batch, truths)
            valid = torch.ones((batch, truths), dtype=torch.bool)
            assert_equals_the_reference(device, own, truth, valid, (0.3, 0.7), low_quality)


def test_any_layout_and_dtype(device: str, generator: torch.Generator) -> None:
    anchors, truth = on_a_grid(generator, 2, 700), on_a_grid(generator, 2, 9)
    valid = torch.rand((9, 2), generator=generator).T < 0.8
    want = match_anchors_reference(anchors, truth, valid, (0.3, 0.5), True)
    wide = torch.empty(4, 700, 2).permute(2, 1, 0).copy_(anchors)
    shifted = torch.empty(anchors.numel() + 1)[1:].view_as(anchors).copy_(anchors)
    for own in (wide, shifted, anchors.bfloat16(), anchors.half(), anchors.double()):
        for gt in (truth, truth.half(), truth.flip(1).to(device).flip(1)):
            got = ops.match_anchors(own.to(device), gt.to(device), valid.to(device), (0.3, 0.5), True)
            assert all(torch.equal(a.cpu(), b) for a, b in zip(got, want, strict=True))


def test_opcheck(device: str, generator: torch.Generator) -> None:
    valid = torch.rand((2, 9), generator=generator) < 0.8
    for shape in ((1, 300), (2, 300)):
        for low_quality in (False, True):
            arguments = [boxes(generator, *shape), boxes(generator, 2, 9), valid]
            moved = [tensor.to(device) for tensor in arguments]
            torch.library.opcheck(torch.ops.detcore.match_anchors, (*moved, 0.3, 0.5, low_quality))


def test_it_is_one_graph(device: str, generator: torch.Generator) -> None:
    anchors, truth = boxes(generator, 300).to(device), boxes(generator, 2, 9).to(device)
    valid = torch.ones((2, 9), dtype=torch.bool, device=device)

    def call(a: Tensor, g: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return ops.match_anchors(a, g, v, (0.3, 0.5), True)

    got = torch.compile(call, backend="eager", fullgraph=True)(anchors, truth, valid)
    assert all(torch.equal(a, b) for a, b in zip(got, call(anchors, truth, valid), strict=True))


def test_threads_do_not_change_a_bit(generator: torch.Generator) -> None:
    anchors, truth = on_a_grid(generator, 9000), on_a_grid(generator, 2, 20)
    valid, threads, results = torch.ones((2, 20), dtype=torch.bool), torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(ops.match_anchors(anchors, truth, valid, (0.3, 0.7), True))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("low_quality", [False, True])
def test_the_host_is_not_needed(generator: torch.Generator, low_quality: bool) -> None:
    anchors, truth = on_a_grid(generator, 5000).cuda(), on_a_grid(generator, 2, 30).cuda()
    valid = torch.ones((2, 30), dtype=torch.bool, device="cuda")
    assert_runs_unattended(lambda: ops.match_anchors(anchors, truth, valid, (0.3, 0.5), low_quality))


@pytest.mark.gpu
@needs_cuda
def test_many_launches_give_the_same(generator: torch.Generator) -> None:
    # As many blocks as make several waves: what they know of each other differs from run to run, the result must not.
    anchors, truth = on_a_grid(generator, 300_000).cuda(), on_a_grid(generator, 4, 100).cuda()
    valid = torch.ones((4, 100), dtype=torch.bool, device="cuda")
    first = ops.match_anchors(anchors, truth, valid, (0.3, 0.9), True)
    for _ in range(10):
        again = ops.match_anchors(anchors, truth, valid, (0.3, 0.9), True)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    cpu = ops.match_anchors(anchors.cpu(), truth.cpu(), valid.cpu(), (0.3, 0.9), True)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(first, cpu, strict=True))
