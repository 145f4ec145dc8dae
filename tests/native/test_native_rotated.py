"""Expected values: the references, IoUs known by hand, and on a GPU, for many sizes, the CPU operator."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from detcore import ops
from detcore.ops import native
from detcore.ops.rotated import box_iou_rotated_reference, nms_rotated_padded_reference

INF, NAN = torch.inf, torch.nan


def scattered(batch: int, count: int, extent: float, generator: torch.Generator) -> Tensor:
    unit = torch.rand((batch, count, 5), generator=generator)
    return unit * torch.tensor([extent, extent, 60, 60, 720]) + torch.tensor([0, 0, 0.5, 0.5, -360])


@pytest.fixture
def sample(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes, scores, groups and valid of two images, with all that is unusual among them."""
    boxes = scattered(2, 90, 90, generator)
    boxes[:, 5] = boxes[:, 6]
    for place, value in ((0, NAN), (1, INF), (2, INF), (3, NAN), (4, -INF)):
        boxes[:, place, place] = value
    boxes[0, 8, 2], boxes[0, 9, 3], boxes[0, 10, 4] = 0, -4, 1e30
    boxes[1, 8] = torch.tensor([1e30, 0, 3e38, 3e38, 10])
    boxes[1, 9] = torch.tensor([50.0, 50, 1e20, 1e3, 30])
    scores = torch.randint(0, 20, (2, 90), generator=generator) / 20
    groups = torch.randint(-3, 3, (2, 90), generator=generator)
    return boxes, scores, groups, torch.rand((2, 90), generator=generator) < 0.8


def on(device: str, *tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.to(device) for tensor in tensors]


def assert_equal(ours: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(ours, want, strict=True):
        assert a.dtype == b.dtype and torch.equal(a.cpu(), b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_iou_equals_the_reference(dtype: torch.dtype, sample: tuple[Tensor, ...], device: str) -> None:
    a, b = (boxes.to(dtype) for boxes in (sample[0][0], sample[0][1, :77]))
    overlap = ops.box_iou_rotated(a.to(device), b.to(device)).cpu()
    assert overlap.dtype == torch.promote_types(dtype, torch.float32) and (overlap > 0.2).sum() > 50
    torch.testing.assert_close(overlap, box_iou_rotated_reference(a, b), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("max_keep", "grouped", "masked"), [(200, False, False), (5, True, False), (90, True, True)])
def test_padded_equals_the_reference(
    max_keep: int, grouped: bool, masked: bool, dtype: torch.dtype, sample: tuple[Tensor, ...], device: str
) -> None:
    boxes, scores, own, valid = sample[0].to(dtype), sample[1].to(dtype), sample[2] if grouped else None, sample[3]
    b, s, g, v = on(device, boxes, scores, own, valid if masked else None)
    everyone = valid if masked else torch.ones_like(valid)
    assert_equal(
        ops.nms_rotated_padded(b, s, g, 0.3, max_keep, valid=v),  # type: ignore[arg-type]
        nms_rotated_padded_reference(boxes, scores, own, 0.3, max_keep, everyone),
    )


def with_iou(share: float, angle: float) -> Tensor:
    """Two boxes turned by an angle; the second is a part of the first, and their IoU is just its share."""
    turn = torch.deg2rad(torch.tensor(angle, dtype=torch.float64))
    off = 8 * (1 - share) / 2
    centre = torch.tensor([37.3, 91.7], dtype=torch.float64)
    second = centre + off * torch.stack((turn.cos(), -turn.sin()))
    return torch.tensor([[*centre, 8, 5, angle], [*second, 8 * share, 5, angle + 180]], dtype=torch.float64)


@pytest.mark.parametrize("angle", [0.0, 30, 45, 90, 123.4, 180, -90, 270, 360, 720 + 17])
@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.7, 1 / 3, 0.25])
def test_boxes_at_the_threshold_survive(threshold: float, angle: float, device: str) -> None:
    boxes, scores = with_iou(threshold, angle).to(device), torch.tensor([0.9, 0.8], device=device)
    assert ops.nms_rotated(boxes, scores, threshold).tolist() == [0, 1]
    assert ops.nms_rotated(boxes, scores, threshold - 1e-6).tolist() == [0]
    everyone = torch.ones(1, 2, dtype=torch.bool, device=device)
    assert nms_rotated_padded_reference(boxes[None], scores[None], None, threshold, 2, everyone)[1].item() == 2


def test_boxes_that_only_touch_have_no_iou(device: str) -> None:
    # At a threshold of 0 what rounding leaves of an intersection would suppress.
    angle = torch.linspace(-360, 360, 41, dtype=torch.float64)
    turn = torch.deg2rad(angle)
    near = torch.stack((turn.cos() * 7, -turn.sin() * 7, torch.full_like(turn, 6), torch.full_like(turn, 3), angle), 1)
    still = torch.stack((turn * 0, turn * 0, torch.full_like(turn, 8), torch.full_like(turn, 5), angle + 180), 1)
    for one, other in zip(near, still, strict=True):
        boxes = torch.stack((one, other)).to(device)
        assert ops.nms_rotated(boxes, torch.tensor([0.9, 0.8], device=device), 0.0).tolist() == [0, 1]
    assert ops.box_iou_rotated(near.to(device), still.to(device)).diagonal().eq(0).all()


def test_variable_forms_take_any_layout(sample: tuple[Tensor, ...], device: str) -> None:
    boxes, scores, groups = (tensor[0] for tensor in sample[:3])
    everyone = torch.ones(1, 90, dtype=torch.bool)
    wide = torch.empty(5, 90, device=device).T.copy_(boxes)
    for own in (None, groups):
        group = None if own is None else own[None]
        keep, count = nms_rotated_padded_reference(boxes[None], scores[None], group, 0.3, 90, everyone)
        g = None if own is None else own.to(device, torch.int32)
        kept = ops.batched_nms_rotated(wide, scores.to(device), g, 0.3)
        assert kept.tolist() == keep[0, : int(count)].tolist()
    torch.testing.assert_close(
        ops.box_iou_rotated(wide[::2], wide[1::3]).cpu(),
        box_iou_rotated_reference(boxes[::2], boxes[1::3]),
        rtol=1e-6,
        atol=1e-12,
    )


def test_of_nothing_and_of_one(device: str) -> None:
    none, one = torch.zeros(0, 5, device=device), torch.tensor([[3.0, 4, 2, 1, 30]], device=device)
    assert ops.box_iou_rotated(none, one).shape == (0, 1) and ops.box_iou_rotated(one, none).shape == (1, 0)
    assert ops.box_iou_rotated(none, none.double()).shape == (0, 0)
    torch.testing.assert_close(ops.box_iou_rotated(one, one).cpu(), torch.ones(1, 1))
    assert ops.nms_rotated(none, none[:, 0], 0.5).shape == (0,)
    assert ops.nms_rotated(one, one[:, 0], 0.5).tolist() == [0]
    for batch, count, max_keep in ((0, 5, 3), (2, 0, 3), (2, 5, 0), (0, 0, 0)):
        boxes = torch.zeros(batch, count, 5, device=device)
        keep, kept = ops.nms_rotated_padded(boxes, boxes[..., 0], None, 0.5, max_keep)
        assert keep.shape == (batch, max_keep) and not keep[:, :1].any()
        assert kept.tolist() == [min(count, max_keep)] * batch


@pytest.mark.parametrize("name", ["box_iou_rotated", "nms_rotated_padded"])
def test_opcheck(name: str, sample: tuple[Tensor, ...], device: str) -> None:
    boxes, scores, groups, valid = (tensor.to(device) for tensor in sample)
    arguments: dict[str, tuple[object, ...]] = {
        "box_iou_rotated": (boxes[0], boxes[1, :70]),
        "nms_rotated_padded": (boxes, scores, groups, valid, 0.3, 20),
    }
    torch.library.opcheck(getattr(torch.ops.detcore, name), arguments[name])


def test_the_number_of_threads_does_not_matter(sample: tuple[Tensor, ...]) -> None:
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            overlap = ops.box_iou_rotated(sample[0][0], sample[0][1])
            results.append((*ops.nms_rotated_padded(*sample[:3], 0.3, 30, valid=sample[3]), overlap))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


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
    for trial in range(40):
        batch = int(torch.randint(1, 6, (), generator=generator))
        count = int(torch.randint(1, 2000, (), generator=generator)) if trial >= 15 else 61 + trial % 10
        boxes = scattered(batch, count, (60.0, 300.0, 3000.0)[trial % 3], generator).to(dtype)
        boxes[..., 4] = (boxes[..., 4] / 90).round() * 90 if trial % 4 == 2 else boxes[..., 4]
        scores = torch.randint(0, 50, (batch, count), generator=generator).to(dtype)
        groups = torch.randint(0, 4, (batch, count), generator=generator) if trial % 4 == 1 else None
        valid = torch.rand((batch, count), generator=generator) < 0.7 if trial % 5 == 1 else None
        max_keep = (count, 1 + count // 7, 100)[trial % 3 if trial % 7 else 0]
        b, s, g, v = on("cuda", boxes, scores, groups, valid)
        threshold = (0.0, 0.3, 0.5)[trial % 3]
        assert_equal(
            ops.nms_rotated_padded(b, s, g, threshold, max_keep, valid=v),  # type: ignore[arg-type]
            ops.nms_rotated_padded(boxes, scores, groups, threshold, max_keep, valid=valid),
        )
        if trial % 8 == 0:
            theirs = ops.box_iou_rotated(boxes[0], boxes[-1, :501])
            torch.testing.assert_close(ops.box_iou_rotated(b[0], b[-1, :501]).cpu(), theirs, rtol=1e-6, atol=1e-12)  # type: ignore[index]


@pytest.mark.gpu
def test_iou_beyond_2_31_pairs(cuda_only: None) -> None:
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of GPU memory")
    generator = torch.Generator().manual_seed(19)
    a, b = scattered(1, 40000, 60000, generator)[0], scattered(1, 60000, 60000, generator)[0]
    b[-40000:] = a
    overlap = ops.box_iou_rotated(a.cuda(), b.cuda())
    torch.testing.assert_close(overlap[:, -40000:].diagonal().cpu(), torch.ones(40000))
    assert torch.equal((overlap[-9:] > 0).cpu(), ops.box_iou_rotated(a[-9:], b) > 0)


@pytest.mark.gpu
def test_the_host_does_not_wait_and_a_graph_replays(cuda_only: None) -> None:
    generator = torch.Generator().manual_seed(17)
    samples = [(scattered(2, 700, 300, generator), torch.rand((2, 700), generator=generator)) for _ in range(3)]
    boxes, scores = (tensor.cuda() for tensor in samples[0])

    def call() -> tuple[Tensor, Tensor, Tensor]:
        return (*ops.nms_rotated_padded(boxes, scores, None, 0.3, 300), ops.box_iou_rotated(boxes[0], boxes[1]))

    call()
    torch.cuda.set_sync_debug_mode("error")
    call()
    torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        keep, count, overlap = call()
    for own, level in samples:
        boxes.copy_(own)
        scores.copy_(level)
        graph.replay()
        assert_equal((keep, count), ops.nms_rotated_padded(own, level, None, 0.3, 300))
        torch.testing.assert_close(overlap.cpu(), ops.box_iou_rotated(own[0], own[1]), rtol=1e-6, atol=1e-12)
