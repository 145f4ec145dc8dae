"""Expected values: `nms_padded_reference`, and on a GPU, for many sizes, the CPU operator that is tested against it."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from detcore import ops
from detcore.ops import native
from detcore.ops.nms import nms_padded_reference

INF, NAN = torch.inf, torch.nan


def scattered(batch: int, count: int, extent: float, generator: torch.Generator) -> Tensor:
    low = torch.rand((batch, count, 2), generator=generator) * extent
    return torch.cat((low, low + torch.rand((batch, count, 2), generator=generator) * 60), dim=2)


def few_levels(batch: int, count: int, generator: torch.Generator) -> Tensor:
    """Scores with many ties."""
    return torch.randint(0, 20, (batch, count), generator=generator) / 20


@pytest.fixture
def sample(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, scores, groups and valid of two images, with all that is unusual among them."""
    boxes, scores = scattered(2, 90, 90, generator), few_levels(2, 90, generator)
    for row, column, value in ((1, 0, NAN), (2, 2, INF), (3, 1, -INF), (4, 3, NAN)):
        boxes[:, row, column] = value
    boxes[0, 6], boxes[1, 7] = torch.tensor([-3e38, -3e38, 3e38, 3e38]), torch.tensor([5.0, 5, 5, 5])
    scores[0, 10:16] = torch.tensor([NAN, -NAN, INF, -INF, 0.0, -0.0])
    groups = torch.randint(-3, 3, (2, 90), generator=generator)
    groups[0, 20:23] = torch.tensor([2**40, 2**40 + 2**32, 2**40])  # equal in their lower halves
    return boxes, scores, groups, torch.rand((2, 90), generator=generator) < 0.8


def on(device: str, *tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.to(device) for tensor in tensors]


def assert_equal(ours: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(ours, want, strict=True):
        assert a.dtype == b.dtype and torch.equal(a.cpu(), b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("max_keep", [1, 5, 90, 200])
@pytest.mark.parametrize("grouped", [False, True])
def test_padded_equals_the_reference(
    grouped: bool, max_keep: int, dtype: torch.dtype, sample: tuple[Tensor, ...], device: str
) -> None:
    boxes, scores, groups, valid = sample
    boxes, scores, own = boxes.to(dtype), scores.to(dtype), groups if grouped else None
    accurate = torch.promote_types(dtype, torch.float32)
    wide, level = boxes.to(accurate), scores.to(accurate)
    for alive in (valid, None):
        b, s, g, v = on(device, boxes, scores, own, alive)
        everyone = torch.ones_like(valid) if alive is None else alive
        assert_equal(
            ops.nms_padded(b, s, g, 0.4, max_keep, valid=v),  # type: ignore[arg-type]
            nms_padded_reference(wide, level, own, 0.4, max_keep, everyone),
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.3, 0.5, 1.0, 1.5, INF, NAN])
def test_any_threshold_equals_the_reference(threshold: float, dtype: torch.dtype, device: str) -> None:
    # Corners on a coarse grid: IoUs of exactly 0, 1/3, 1/2 and 1 are common.
    generator = torch.Generator().manual_seed(7)
    low = torch.randint(0, 9, (3, 70, 2), generator=generator)
    boxes = torch.cat((low, low + torch.randint(0, 4, (3, 70, 2), generator=generator)), dim=2).to(dtype)
    scores = few_levels(3, 70, generator).to(dtype)
    want = nms_padded_reference(boxes, scores, None, threshold, 70, torch.ones_like(scores, dtype=torch.bool))
    assert_equal(ops.nms_padded(boxes.to(device), scores.to(device), None, threshold, 70), want)


def test_tiny_and_huge_areas_equal_the_reference(device: str, generator: torch.Generator) -> None:
    # Areas near the smallest and the largest numbers of float32, where products and quotients lose their digits.
    boxes = torch.cat([scattered(1, 60, 90, generator) * scale for scale in (1e-22, 3e-21, 1e-19, 1e17)])
    scores = few_levels(4, 60, generator)
    want = nms_padded_reference(boxes, scores, None, 0.25, 60, torch.ones_like(scores, dtype=torch.bool))
    assert_equal(ops.nms_padded(boxes.to(device), scores.to(device), None, 0.25, 60), want)


def test_a_long_chain_of_suppression(device: str) -> None:
    # Each box overlaps its neighbours alone: every second one is kept, and each is decided by the one before.
    x = torch.arange(1000.0)
    boxes = torch.stack((x, torch.zeros(1000), x + 1.8, torch.ones(1000)), dim=1)
    scores = -x
    assert ops.nms(boxes.to(device), scores.to(device), 0.2).tolist() == list(range(0, 1000, 2))
    keep, count = ops.nms_padded(boxes[None].to(device), scores[None].to(device), None, 0.2, 300)
    assert keep[0].tolist() == list(range(0, 600, 2)) and count.tolist() == [300]


def test_variable_forms_take_any_layout(sample: tuple[Tensor, ...], device: str) -> None:
    boxes, scores, groups = (tensor[0] for tensor in sample[:3])
    everyone = torch.ones(1, 90, dtype=torch.bool)
    wide = torch.empty(4, 90, device=device).T.copy_(boxes)
    strided = torch.empty(90, 3, device=device)[:, 1].copy_(scores)
    for own in (None, groups):
        group = None if own is None else own[None]
        keep, count = nms_padded_reference(boxes[None], scores[None], group, 0.4, 90, everyone)
        if own is None:
            kept = ops.nms(wide, strided, 0.4)
        else:
            kept = ops.batched_nms(wide, strided, own.to(device, torch.int32), 0.4)
        assert kept.dtype == torch.int64 and kept.tolist() == keep[0, : int(count)].tolist()


def test_of_nothing_and_of_one(device: str) -> None:
    none, one = torch.zeros(0, 4, device=device), torch.tensor([[0.0, 0, 1, 1]], device=device)
    assert ops.nms(none, none[:, 0], 0.5).shape == (0,)
    assert ops.batched_nms(none, none[:, 0], none[:, 0].long(), 0.5).shape == (0,)
    assert ops.nms(one, one[:, 0], 0.5).tolist() == [0]
    for batch, count, max_keep in ((0, 5, 3), (2, 0, 3), (2, 5, 0), (0, 0, 0)):
        boxes = torch.zeros(batch, count, 4, device=device)
        keep, kept = ops.nms_padded(boxes, boxes[..., 0], None, 0.5, max_keep)
        assert keep.shape == (batch, max_keep) and kept.shape == (batch,)
        assert not keep.any() and kept.tolist() == [5 if max_keep and count else 0] * batch
    nobody = torch.zeros(2, 5, dtype=torch.bool, device=device)
    keep, kept = ops.nms_padded(torch.zeros(2, 5, 4, device=device), nobody.float(), None, 0.5, 3, valid=nobody)
    assert not keep.any() and not kept.any()


@pytest.mark.parametrize("name", ["nms", "nms_padded"])
def test_opcheck(name: str, sample: tuple[Tensor, ...], device: str) -> None:
    boxes, scores, groups, valid = on(device, *sample)
    if name == "nms_padded":
        torch.library.opcheck(torch.ops.detcore.nms_padded, (boxes, scores, groups, valid, 0.5, 20))
        return
    # Dynamo is not asked: it would have to be told to capture lengths that depend on the data.
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    arguments = (boxes[0], scores[0], groups[0], 0.5)  # type: ignore[index]
    torch.library.opcheck(torch.ops.detcore.nms, arguments, test_utils=tests)


def test_the_number_of_threads_does_not_matter(sample: tuple[Tensor, ...]) -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(ops.nms_padded(*sample[:3], 0.4, 30, valid=sample[3]))
    finally:
        torch.set_num_threads(threads)
    assert_equal(*results)


@pytest.fixture
def cuda_only() -> Iterator[None]:
    if not (torch.cuda.is_available() and native.serves("cuda")):
        pytest.skip("needs a CUDA device and its native operators")
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_gpu_equals_the_cpu_at_many_sizes(dtype: torch.dtype, cuda_only: None) -> None:
    generator = torch.Generator().manual_seed(11)
    for trial in range(60):
        batch = int(torch.randint(1, 6, (), generator=generator))
        count = int(torch.randint(1, 3000, (), generator=generator)) if trial >= 20 else 61 + trial % 10
        extent = (30.0, 200.0, 3000.0)[trial % 3]  # from hardly any kept to nearly all
        boxes, scores = scattered(batch, count, extent, generator).to(dtype), few_levels(batch, count, generator)
        scores = scores.to(dtype) if trial % 2 else torch.rand((batch, count), generator=generator).to(dtype)
        groups = torch.randint(0, 4, (batch, count), generator=generator) if trial % 4 == 1 else None
        valid = torch.rand((batch, count), generator=generator) < 0.7 if trial % 5 == 1 else None
        max_keep = (count, 1 + count // 7, 100)[trial % 3 if trial % 7 else 0]
        b, s, g, v = on("cuda", boxes, scores, groups, valid)
        assert_equal(
            ops.nms_padded(b, s, g, 0.3, max_keep, valid=v),  # type: ignore[arg-type]
            ops.nms_padded(boxes, scores, groups, 0.3, max_keep, valid=valid),
        )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_gpu_equals_the_cpu_with_many_boxes(batch: int, dtype: torch.dtype, cuda_only: None) -> None:
    # So many that the radix sort orders them.
    generator = torch.Generator().manual_seed(13)
    boxes, scores = scattered(batch, 40000, 3000, generator).to(dtype), few_levels(batch, 40000, generator).to(dtype)
    valid, groups = (
        torch.rand(scores.shape, generator=generator) < 0.9,
        torch.arange(40000).remainder(80).expand(batch, -1),
    )
    scores[:, :9] = torch.tensor([NAN, -NAN, INF, -INF, 0.0, -0.0, -1.0, 1.0, -INF])
    b, s, g, v = on("cuda", boxes, scores, groups, valid)
    assert_equal(
        ops.nms_padded(b, s, g, 0.5, 40000, valid=v),  # type: ignore[arg-type]
        ops.nms_padded(boxes, scores, groups, 0.5, 40000, valid=valid),
    )


@pytest.mark.gpu
@pytest.mark.parametrize("count", [700, 20000])
def test_the_host_does_not_wait_and_a_graph_replays(count: int, cuda_only: None) -> None:
    generator = torch.Generator().manual_seed(17)
    samples = [(scattered(2, count, 400, generator), few_levels(2, count, generator)) for _ in range(3)]
    boxes, scores = (tensor.cuda() for tensor in samples[0])
    ops.nms_padded(boxes, scores, None, 0.5, 300)
    torch.cuda.set_sync_debug_mode("error")
    ops.nms_padded(boxes, scores, None, 0.5, 300)
    torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = ops.nms_padded(boxes, scores, None, 0.5, 300)
    for own, level in samples:
        boxes.copy_(own)
        scores.copy_(level)
        graph.replay()
        assert_equal(captured, ops.nms_padded(own, level, None, 0.5, 300))
