"""Expected values: the references on the CPU, which are torchvision's operator on RoIs that it is defined for."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detcore.ops import multilevel_roi_align, roi_align
from detcore.ops.multilevel_roi_align import _assign, _flat, _pool_grouped
from detcore.ops.roi_align import pool_rois, roi_align_reference

STRIDES = (4, 8, 16)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# Samples and channels. 70: no whole number of vectors; 264: more than a warp takes at once in packs of 16 bytes.
SIZES = [(0, 6), (2, 70), (2, 264)]


def pyramid(channels: int, dtype: torch.dtype, generator: torch.Generator, *, last: bool) -> list[Tensor]:
    layout = torch.channels_last if last else torch.contiguous_format
    return [
        torch.randn((2, channels, 160 // s, 224 // s), generator=generator).to(dtype).contiguous(memory_format=layout)
        for s in STRIDES
    ]


def boxes(generator: torch.Generator) -> Tensor:
    low = torch.rand((2, 30, 2), generator=generator) * 220 - 20
    out = torch.cat((low, low + torch.rand((2, 30, 2), generator=generator) ** 2 * 250), dim=2)
    out[0, 3, 1], out[0, 4, 2], out[1, 5, 0] = torch.nan, torch.inf, -torch.inf
    out[0, 6], out[1, 7] = 3.0, torch.tensor([50.0, 40, 20, 10])  # empty, and inside out
    out[1, 8] = torch.tensor([-1e30, -1e30, 1e30, 1e30])
    return out


def to(device: str, tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.to(device) for tensor in tensors]


def reference(features: list[Tensor], own: Tensor, size: int, sampling: int) -> Tensor:
    rois = _flat(own)
    level = _assign(rois, [2, 3, 4], 100.0, 4)
    return _pool_grouped(features, rois, level, STRIDES, size, sampling)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("sampling", "channels"), SIZES)
def test_values_and_gradients_equal_the_reference(
    sampling: int, channels: int, dtype: torch.dtype, last: bool, device: str, generator: torch.Generator
) -> None:
    features, own = pyramid(channels, dtype, generator, last=last), boxes(generator)
    ours = [f.clone().requires_grad_() for f in to(device, features)]
    theirs = [f.to(torch.promote_types(dtype, torch.float32)).clone().requires_grad_() for f in features]
    pooled = multilevel_roi_align(ours, own.to(device), STRIDES, 7, sampling, canonical_size=100.0)
    want = reference(theirs, own, 7, sampling)
    assert pooled.dtype == dtype
    assert pooled.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype in (torch.float32, torch.float64) else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(pooled.to("cpu", want.dtype), want, **close)
    grad = torch.randn(pooled.shape, generator=generator).to(dtype)
    pooled.backward(grad.to(device))
    want.backward(grad.to(want.dtype))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None and other.grad is not None
        assert mine.grad.dtype == dtype
        # Strides of a gradient may be torch's choice, but not its numbers.
        torch.testing.assert_close(
            mine.grad.to("cpu", other.grad.dtype), other.grad, rtol=close["rtol"], atol=20 * close["atol"]
        )


@pytest.mark.parametrize("aligned", [True, False])
def test_one_level_equals_the_reference(aligned: bool, device: str, generator: torch.Generator) -> None:
    features = torch.randn((2, 5, 30, 41), generator=generator)
    rois = torch.cat((torch.randint(-1, 3, (2, 30, 1), generator=generator), boxes(generator)), dim=2).reshape(-1, 6)
    rois = rois[:, :5]
    for inputs in (features, features.transpose(2, 3), features[:, ::2]):
        want = roi_align_reference(inputs, rois, (5, 3), 0.25, 0, aligned)
        # .to(device) would close the gaps between every second channel.
        pooled = roi_align(
            features.to(device).as_strided(inputs.shape, inputs.stride()), rois.to(device), (5, 3), 0.25, 0, aligned
        )
        torch.testing.assert_close(pooled.cpu(), want, rtol=1e-5, atol=1e-5)


def test_the_number_of_threads_does_not_change_a_bit(generator: torch.Generator) -> None:
    features, own = pyramid(70, torch.float32, generator, last=True), boxes(generator)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaves = [f.clone().requires_grad_() for f in features]
            pooled = multilevel_roi_align(leaves, own, STRIDES, 7)
            pooled.square().sum().backward()
            results.append([pooled.detach(), *(leaf.grad for leaf in leaves)])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.parametrize("last", [False, True])
def test_opcheck(last: bool, device: str, generator: torch.Generator) -> None:
    features = [f.requires_grad_() for f in to(device, pyramid(3, torch.float32, generator, last=last))]
    valid = (torch.rand(60, generator=generator) < 0.8).to(device)
    rest = ([1 / s for s in STRIDES], 7, 5, 2, True, 100.0, 2, last)
    rois = _flat(boxes(generator)).to(device)
    torch.library.opcheck(torch.ops.detcore.roi_align, (features, rois, valid, *rest))
    grad = torch.randn((60, 3, 7, 5), generator=generator).to(device)
    sizes = ([f.shape[2] for f in features], [f.shape[3] for f in features], 2)
    torch.library.opcheck(torch.ops.detcore.roi_align_backward, (grad, rois, None, rest[0], *sizes, *rest[3:]))


def test_compiles_to_one_graph_of_any_shape(device: str, generator: torch.Generator) -> None:
    @torch.compile(backend="aot_eager", fullgraph=True, dynamic=True)
    def loss(features: list[Tensor], own: Tensor) -> Tensor:
        return multilevel_roi_align(features, own, STRIDES, 7).square().sum()

    for _ in range(2):
        features = [f.requires_grad_() for f in to(device, pyramid(3, torch.float32, generator, last=True))]
        own = boxes(generator).to(device)
        (want,) = torch.autograd.grad(multilevel_roi_align(features, own, STRIDES, 7).square().sum(), features[0])
        (got,) = torch.autograd.grad(loss(features, own), features[0])
        torch.testing.assert_close(got, want)


def test_gradcheck(device: str) -> None:
    features = torch.rand((1, 2, 6, 5), dtype=torch.float64).to(device).requires_grad_()
    rois = torch.tensor([[0, 1.5, 2.0, 14.0, 13.0], [0, -3, 4, 12, 17]], dtype=torch.float64, device=device)
    for sampling in (0, 2):
        pool: Callable[[Tensor], Tensor] = lambda f, s=sampling: pool_rois([f], rois, None, [0.25], (2, 2), s)  # noqa: E731
        assert torch.autograd.gradcheck(pool, features)


def test_empty_inputs(device: str, generator: torch.Generator) -> None:
    features = to(device, pyramid(3, torch.float32, generator, last=True))
    no_boxes, no_images = torch.zeros(2, 0, 4, device=device), torch.zeros(0, 5, 4, device=device)
    assert multilevel_roi_align(features, no_boxes, STRIDES, 7).shape == (0, 3, 7, 7)
    assert multilevel_roi_align([f[:0] for f in features], no_images, STRIDES, 7).shape == (0, 3, 7, 7)
    one = torch.tensor([[0, 0, 0, 9.0, 9]], device=device)
    assert roi_align(torch.rand(2, 0, 4, 4, device=device), one, 7, 1.0, 2).shape == (1, 0, 7, 7)
    assert not roi_align(torch.rand(2, 3, 0, 4, device=device), one, 7, 1.0, 2).any()
    leaf = torch.rand(2, 3, 4, 4, device=device).requires_grad_()
    roi_align(leaf, one[:0], 7, 1.0, 2).sum().backward()
    assert leaf.grad is not None and not leaf.grad.any()


def test_nothing_but_the_valid_is_pooled(device: str, generator: torch.Generator) -> None:
    features, own = to(device, pyramid(3, torch.float32, generator, last=True)), boxes(generator).to(device)
    valid = torch.rand((2, 30), generator=generator).to(device) < 0.5
    everyone = multilevel_roi_align(features, own, STRIDES, 7)
    want = torch.where(valid.reshape(-1, 1, 1, 1), everyone, 0)
    assert torch.equal(multilevel_roi_align(features, own, STRIDES, 7, valid=valid), want)


def test_rows_that_start_at_odd_addresses_are_read(device: str, generator: torch.Generator) -> None:
    # Eight channels of two bytes would be one pack, were it not for the first number that is cut off.
    flat = torch.randn(2 * 20 * 20 * 8 + 1, generator=generator).to(device, torch.bfloat16)[1:]
    features = flat.view(2, 20, 20, 8).permute(0, 3, 1, 2)
    rois = torch.tensor([[1, 3.0, 5, 60, 50]])
    pooled = roi_align(features, rois.to(device), 7, 0.25, 2)
    want = roi_align_reference(features.cpu(), rois, (7, 7), 0.25, 2)
    torch.testing.assert_close(pooled.cpu(), want, rtol=1e-2, atol=1e-2)


def test_more_rois_on_a_pixel_than_a_block_has_threads(device: str, generator: torch.Generator) -> None:
    features = torch.randn((1, 8, 24, 20), generator=generator)
    rois = torch.cat((torch.zeros(700, 1), boxes(generator).repeat(12, 1, 1).reshape(-1, 4)[:700] * 0.4), dim=1)
    ours, theirs = features.to(device).clone().requires_grad_(), features.requires_grad_()
    grad = torch.randn((700, 8, 4, 3), generator=generator)
    roi_align(ours, rois.to(device), (4, 3), 0.25, 2).backward(grad.to(device))
    roi_align_reference(theirs, rois, (4, 3), 0.25, 2).backward(grad)
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(ours.grad.cpu(), theirs.grad, rtol=1e-4, atol=1e-3)


def test_every_run_gives_the_same_bits(device: str, generator: torch.Generator) -> None:
    features, own = to(device, pyramid(70, torch.float32, generator, last=True)), boxes(generator).to(device)
    results = []
    for _ in range(3):
        leaves = [f.clone().requires_grad_() for f in features]
        pooled = multilevel_roi_align(leaves, own, STRIDES, 7)
        pooled.square().sum().backward()
        results.append([pooled.detach(), *(leaf.grad for leaf in leaves)])
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_autocast_and_mixed_levels_keep_what_they_know(device: str, generator: torch.Generator) -> None:
    features, own = to(device, pyramid(8, torch.float32, generator, last=True)), boxes(generator).to(device)
    want = multilevel_roi_align(features, own, STRIDES, 7)
    with torch.autocast(device, torch.bfloat16):
        assert torch.equal(multilevel_roi_align(features, own, STRIDES, 7), want)
        mixed = [features[0].bfloat16().requires_grad_(), *features[1:]]
        pooled = multilevel_roi_align(mixed, own, STRIDES, 7)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, want, rtol=1e-2, atol=1e-2)
    pooled.sum().backward()
    assert mixed[0].grad is not None and mixed[0].grad.dtype == torch.bfloat16


@pytest.mark.gpu
def test_a_graph_captures_it_and_the_host_never_waits(generator: torch.Generator) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    features = [f.requires_grad_() for f in to("cuda", pyramid(70, torch.bfloat16, generator, last=True))]
    own = boxes(generator).cuda()

    def run() -> list[Tensor]:
        pooled = multilevel_roi_align(features, own, STRIDES, 7)
        return [pooled, *torch.autograd.grad(pooled, features, torch.ones_like(pooled))]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()
        torch.cuda.set_sync_debug_mode("error")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    own.copy_(boxes(generator))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, run(), strict=True))


@pytest.mark.gpu
def test_more_than_two_to_the_31_numbers() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    shape = (1, 256, 4096, 2112)
    features = torch.empty(shape, dtype=torch.bfloat16, device="cuda", memory_format=torch.channels_last)
    features.zero_()
    corner = torch.randn((1, 256, 64, 64), device="cuda").bfloat16()
    features[:, :, -64:, -64:] = corner
    rois = torch.tensor([[0, 10.0, 12, 50, 61], [0, 33, 5, 64, 64]], device="cuda")
    far = rois + rois.new_tensor([0, 2112 - 64, 4096 - 64, 2112 - 64, 4096 - 64])
    features.requires_grad_()
    corner.requires_grad_()
    pooled, want = roi_align(features, far, 7, 1.0, 2), roi_align(corner, rois, 7, 1.0, 2)
    torch.testing.assert_close(pooled, want, rtol=1e-2, atol=1e-2)
    (ours,) = torch.autograd.grad(pooled, features, torch.ones_like(pooled))
    (theirs,) = torch.autograd.grad(want, corner, torch.ones_like(want))
    torch.testing.assert_close(ours[:, :, -64:, -64:], theirs, rtol=1e-2, atol=1e-2)
    assert not ours[:, :, :-64].any()
