"""Expected values: the reference, which is torch's grid_sample on every level, in fp32 or better, on the CPU."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from detcore.ops import ms_deform_attn
from detcore.ops.ms_deform_attn import ms_deform_attn_reference

SHAPES = [(7, 9), (4, 5), (1, 2)]
POSITIONS = 85
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def inputs(
    generator: torch.Generator, channels: int = 32, dtype: torch.dtype = torch.float32, queries: int = 21
) -> tuple[Tensor, Tensor, Tensor]:
    """Some locations lie outside of the map, some nowhere."""
    accurate = torch.promote_types(dtype, torch.float32)
    value = torch.randn((2, POSITIONS, 3, channels), generator=generator, dtype=accurate).to(dtype)
    locations = torch.rand((2, queries, 3, 3, 4, 2), generator=generator, dtype=accurate) * 1.4 - 0.2
    weights = torch.rand((2, queries, 3, 3, 4), generator=generator, dtype=accurate).to(dtype)
    if queries > 5:
        for query, where in enumerate((torch.nan, torch.inf, -torch.inf, 1e30)):
            locations[:, query, 0, 1, 2, query % 2] = where
    return value, locations, weights


def with_gradients(function: Callable[..., Tensor], tensors: tuple[Tensor, ...], grad: Tensor) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, grad.to(out.dtype))]


def ours(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return ms_deform_attn(value, SHAPES, locations, weights)


def theirs(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    return ms_deform_attn_reference(value, SHAPES, locations, weights)


def assert_close(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    for one, other in zip(got, want, strict=True):
        scale = max(other.abs().max().item(), 1.0)
        torch.testing.assert_close(one.to(other), other, rtol=tolerance, atol=tolerance * scale)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


# 32 channels: four lanes of a warp, whole vectors of a CPU; 3 and 70: neither; 300: more than a warp takes at a time.
@pytest.mark.parametrize("channels", [3, 32, 70, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients_equal_the_reference(
    dtype: torch.dtype, channels: int, device: str, generator: torch.Generator
) -> None:
    tensors = inputs(generator, channels, dtype)
    grad = torch.randn((2, 21, 3 * channels), generator=generator, dtype=torch.float64)
    accurate = torch.promote_types(dtype, torch.float32)
    want = with_gradients(theirs, tuple(t.to(accurate) for t in tensors), grad.to(dtype))
    got = with_gradients(ours, tuple(t.to(device) for t in tensors), grad.to(device))
    assert [t.dtype for t in got] == [dtype, dtype, accurate, dtype]
    assert_close([t.cpu() for t in got], want, TOLERANCE[dtype])


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_deterministic_gradient_repeats_and_equals_the_reference(
    dtype: torch.dtype, device: str, generator: torch.Generator
) -> None:
    value, locations, weights = inputs(generator, 32, dtype)
    locations = locations.nan_to_num(0.5) * 0.1 + 0.4  # many samples on few pixels
    tensors = tuple(t.to(device) for t in (value, locations, weights))
    grad = torch.randn((2, 21, 96), generator=generator)
    runs = [with_gradients(ours, tensors, grad.to(device)) for _ in range(3)]
    for run in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(run, runs[0], strict=True))
    accurate = torch.promote_types(dtype, torch.float32)
    want = with_gradients(theirs, tuple(t.cpu().to(accurate) for t in tensors), grad.to(dtype))
    # A gradient of locations jumps where two pixels meet, and these locations are rounded.
    assert_close([runs[0][i].cpu() for i in (0, 1, 3)], [want[i] for i in (0, 1, 3)], max(TOLERANCE[dtype], 1e-9))


@pytest.mark.usefixtures("deterministic")
def test_a_deterministic_gradient_of_numbers_that_are_not_finite_is_not_finite(
    device: str, generator: torch.Generator
) -> None:
    tensors = tuple(t.to(device) for t in inputs(generator))
    for bad in (torch.nan, torch.inf):
        grad = torch.randn((2, 21, 96), generator=generator).to(device)
        grad[0, 9, 5] = bad
        assert not with_gradients(ours, tensors, grad)[1].isfinite().all()


def test_any_layout_and_mixed_dtypes(device: str, generator: torch.Generator) -> None:
    value, locations, weights = inputs(generator)
    want = theirs(value, locations, weights)
    strided = value.transpose(1, 2).contiguous().transpose(1, 2), locations.transpose(0, 1).contiguous().transpose(0, 1)
    doubled = weights.to(device).repeat_interleave(2, dim=-1)[..., ::2]
    got = ours(strided[0].to(device), strided[1].to(device), doubled)
    torch.testing.assert_close(got.cpu(), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours(value, locations.double(), weights.double()), want, rtol=1e-5, atol=1e-5)
    odd = torch.empty(value.numel() + 1, device=device)[1:].view(value.shape).copy_(value)
    torch.testing.assert_close(ours(odd, locations.to(device), weights.to(device)).cpu(), want, rtol=1e-5, atol=1e-5)


def test_gradcheck(device: str) -> None:
    generator = torch.Generator().manual_seed(1)
    value = torch.rand((1, POSITIONS, 2, 3), generator=generator, dtype=torch.float64)
    locations = torch.rand((1, 2, 2, 3, 2, 2), generator=generator, dtype=torch.float64) * 1.2 - 0.1
    weights = torch.rand((1, 2, 2, 3, 2), generator=generator, dtype=torch.float64)
    leaves = [t.to(device).requires_grad_() for t in (value, locations, weights)]
    # Atomic sums may differ in their last bits from run to run.
    assert torch.autograd.gradcheck(ours, leaves, nondet_tol=1e-12)


def test_opcheck(device: str, generator: torch.Generator) -> None:
    tensors = [t.to(device) for t in inputs(generator, 8)]
    sizes = [h for h, _ in SHAPES], [w for _, w in SHAPES]
    leaves = [t.clone().requires_grad_() for t in tensors]
    torch.library.opcheck(torch.ops.detcore.ms_deform_attn, (*leaves, *sizes), atol=1e-5, rtol=1e-5)
    grad = torch.randn((2, 21, 24), generator=generator).to(device)
    torch.library.opcheck(
        torch.ops.detcore.ms_deform_attn_backward, (grad, *tensors, *sizes, None), atol=1e-5, rtol=1e-5
    )


def test_compiles_to_one_graph_of_any_shape(device: str, generator: torch.Generator) -> None:
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True, dynamic=True)
    for queries in (21, 13):
        tensors = tuple(t.to(device) for t in inputs(generator, 8, queries=queries))
        grad = torch.randn((2, queries, 24), generator=generator).to(device)
        assert_close(with_gradients(compiled, tensors, grad), with_gradients(ours, tensors, grad), 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast(dtype: torch.dtype, device: str, generator: torch.Generator) -> None:
    value, locations, weights = inputs(generator)
    tensors = tuple(t.to(device) for t in (value.to(dtype), locations, weights))
    grad = torch.randn((2, 21, 96), generator=generator).bfloat16().to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        got = with_gradients(ours, tensors, grad)
    assert [t.dtype for t in got] == [torch.bfloat16, dtype, torch.float32, torch.float32]
    # The same numbers as those of an input in bf16: the locations were not rounded.
    want = with_gradients(ours, (tensors[0].bfloat16(), tensors[1], tensors[2].bfloat16()), grad)
    assert_close([got[0].float()], [want[0].float()], 1e-6)
    # Atomic sums may be rounded to the other side.
    assert_close([t.float() for t in got], [t.float() for t in want], 1e-2)


def test_the_number_of_threads_does_not_change_a_bit(generator: torch.Generator) -> None:
    tensors, grad = inputs(generator), torch.randn((2, 21, 96), generator=generator)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            results.append(with_gradients(ours, tensors, grad))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_empty_inputs_and_errors(device: str, generator: torch.Generator) -> None:
    value, locations, weights = (t.to(device) for t in inputs(generator))
    for tensors in (
        (value[:0], locations[:0], weights[:0]),
        (value, locations[:, :0], weights[:, :0]),
        (value, locations[:, :, :, :, :0], weights[:, :, :, :, :0]),
        (value[:, :, :0], locations[:, :, :0], weights[:, :, :0]),
        (value[..., :0], locations, weights),
    ):
        shape = (len(tensors[0]), tensors[1].shape[1], tensors[0].shape[2] * tensors[0].shape[3])
        out, *grads = with_gradients(ours, tensors, torch.ones(shape, device=device))
        assert out.shape == shape and not out.any() and not any(g.any() for g in grads)
    assert not ms_deform_attn(value[:, :0], [(0, 4), (3, 0), (0, 0)], locations, weights).any()
    one = ms_deform_attn(value[:1, :1, :1, :1], [(1, 1)], locations[:1, 7:8, :1, :1, :1], weights[:1, 7:8, :1, :1, :1])
    assert one.shape == (1, 1, 1)
    with pytest.raises(ValueError, match="positions"):
        ms_deform_attn(value[:, 1:], SHAPES, locations, weights)
    with pytest.raises(ValueError, match="must be"):
        ms_deform_attn(value, SHAPES, locations[:, 1:], weights)
    with pytest.raises(ValueError, match="levels"):
        ms_deform_attn(value, [(5, 1)] * 17, locations, weights)


@pytest.mark.gpu
@pytest.mark.parametrize("is_deterministic", [False, True])
def test_the_host_never_waits_and_a_graph_can_hold_it(is_deterministic: bool, generator: torch.Generator) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    tensors = tuple(t.cuda() for t in inputs(generator))
    leaves, grad = [t.requires_grad_() for t in tensors], torch.randn((2, 21, 96), generator=generator).cuda()
    torch.use_deterministic_algorithms(is_deterministic)
    try:
        want = torch.autograd.grad(ours(*leaves), leaves, grad)
        torch.cuda.set_sync_debug_mode("error")
        torch.autograd.grad(ours(*leaves), leaves, grad)
        torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = torch.autograd.grad(ours(*leaves), leaves, grad)
        graph.replay()
        torch.cuda.synchronize()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    assert_close(list(got), list(want), 1e-5)


@pytest.mark.gpu
def test_more_numbers_than_32_bits_count() -> None:
    if not torch.cuda.is_available() or torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs a CUDA device with 24 GB free")
    # 2^31 + 2^27 numbers; the last image's gradient and values are compared with those of the image alone.
    side, channels = 512, 512
    value = torch.zeros((17, side * side, 1, channels), dtype=torch.bfloat16, device="cuda")
    value[16].normal_()
    locations = torch.rand((17, 9, 1, 1, 4, 2), device="cuda")
    weights = torch.rand((17, 9, 1, 1, 4), device="cuda")
    grad = torch.randn((17, 9, channels), dtype=torch.bfloat16, device="cuda")
    arguments = ([side], [side])
    out = torch.ops.detcore.ms_deform_attn(value, locations, weights, *arguments)
    grads = torch.ops.detcore.ms_deform_attn_backward(grad, value, locations, weights, *arguments, None)
    own = [t[16:] for t in (value, locations, weights)]
    torch.testing.assert_close(out[16:], torch.ops.detcore.ms_deform_attn(*own, *arguments))
    own_grads = torch.ops.detcore.ms_deform_attn_backward(grad[16:], *own, *arguments, None)
    for one, other in zip(grads, own_grads, strict=True):
        torch.testing.assert_close(one[16:], other)
