"""Expected values: the references, which are torchvision's operator on RoIs that it is defined for."""

import pytest
import torch
from torch import Tensor

from detcore.ops import multilevel_roi_align, roi_align
from detcore.ops.multilevel_roi_align import _assign, _flat, _pool_grouped
from detcore.ops.roi_align import pool_rois, roi_align_reference

STRIDES = (4, 8, 16)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
# 70 channels: four vectors of 16 numbers, and a rest.
CHANNELS = [3, 70]


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


def reference(features: list[Tensor], own: Tensor, size: int, sampling: int) -> Tensor:
    rois = _flat(own)
    level = _assign(rois, [2, 3, 4], 100.0, 4)
    return _pool_grouped(features, rois, level, STRIDES, size, sampling)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("sampling", [0, 2])
def test_values_and_gradients_equal_the_reference(
    sampling: int, channels: int, dtype: torch.dtype, last: bool, generator: torch.Generator
) -> None:
    features, own = pyramid(channels, dtype, generator, last=last), boxes(generator)
    ours = [f.clone().requires_grad_() for f in features]
    theirs = [f.to(torch.promote_types(dtype, torch.float32)).clone().requires_grad_() for f in features]
    pooled = multilevel_roi_align(ours, own, STRIDES, 7, sampling, canonical_size=100.0)
    want = reference(theirs, own, 7, sampling)
    assert pooled.dtype == dtype
    assert pooled.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype in (torch.float32, torch.float64) else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(pooled.to(want.dtype), want, **close)
    grad = torch.randn(pooled.shape, generator=generator).to(dtype)
    pooled.backward(grad)
    want.backward(grad.to(want.dtype))
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None and other.grad is not None
        assert mine.grad.dtype == dtype
        # Strides of a gradient may be torch's choice, but not its numbers.
        torch.testing.assert_close(
            mine.grad.to(other.grad.dtype), other.grad, rtol=close["rtol"], atol=20 * close["atol"]
        )


@pytest.mark.parametrize("aligned", [True, False])
def test_one_level_equals_the_reference(aligned: bool, generator: torch.Generator) -> None:
    features = torch.randn((2, 5, 30, 41), generator=generator)
    rois = torch.cat((torch.randint(-1, 3, (2, 30, 1), generator=generator), boxes(generator)), dim=2).reshape(-1, 6)
    rois = rois[:, :5]
    for inputs in (features, features.transpose(2, 3), features[:, ::2]):
        want = roi_align_reference(inputs, rois, (5, 3), 0.25, 0, aligned)
        torch.testing.assert_close(roi_align(inputs, rois, (5, 3), 0.25, 0, aligned), want, rtol=1e-5, atol=1e-5)


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
def test_opcheck(last: bool, generator: torch.Generator) -> None:
    features = [f.requires_grad_() for f in pyramid(3, torch.float32, generator, last=last)]
    valid = torch.rand(60, generator=generator) < 0.8
    rest = ([1 / s for s in STRIDES], 7, 5, 2, True, 100.0, 2, last)
    rois = _flat(boxes(generator))
    torch.library.opcheck(torch.ops.detcore.roi_align, (features, rois, valid, *rest))
    torch.library.opcheck(torch.ops.detcore.roi_align, (features, rois, None, *rest))
    grad = torch.randn((60, 3, 7, 5), generator=generator)
    sizes = ([f.shape[2] for f in features], [f.shape[3] for f in features], 2)
    torch.library.opcheck(torch.ops.detcore.roi_align_backward, (grad, rois, valid, rest[0], *sizes, *rest[3:]))


def test_compiles_to_one_graph_of_any_shape(generator: torch.Generator) -> None:
    @torch.compile(backend="aot_eager", fullgraph=True, dynamic=True)
    def loss(features: list[Tensor], own: Tensor) -> Tensor:
        return multilevel_roi_align(features, own, STRIDES, 7).square().sum()

    for _ in range(2):
        features = [f.requires_grad_() for f in pyramid(3, torch.float32, generator, last=True)]
        own = boxes(generator)
        (want,) = torch.autograd.grad(multilevel_roi_align(features, own, STRIDES, 7).square().sum(), features[0])
        (got,) = torch.autograd.grad(loss(features, own), features[0])
        torch.testing.assert_close(got, want)


def test_gradcheck() -> None:
    features = torch.rand((1, 2, 6, 5), dtype=torch.float64).requires_grad_()
    rois = torch.tensor([[0, 1.5, 2.0, 14.0, 13.0], [0, -3, 4, 12, 17]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda f: pool_rois([f], rois, None, [0.25], (2, 2), 0), features)


def test_empty_inputs(generator: torch.Generator) -> None:
    features = pyramid(3, torch.float32, generator, last=True)
    assert multilevel_roi_align(features, torch.zeros(2, 0, 4), STRIDES, 7).shape == (0, 3, 7, 7)
    assert multilevel_roi_align([f[:0] for f in features], torch.zeros(0, 5, 4), STRIDES, 7).shape == (0, 3, 7, 7)
    assert roi_align(torch.rand(2, 0, 4, 4), torch.zeros(1, 5), 7, 1.0, 2).shape == (1, 0, 7, 7)
    assert not roi_align(torch.rand(2, 3, 0, 4), torch.tensor([[0, 0, 0, 9.0, 9]]), 7, 1.0, 2).any()
    leaf = torch.rand(2, 3, 4, 4).requires_grad_()
    roi_align(leaf, torch.zeros(0, 5), 7, 1.0, 2).sum().backward()
    assert leaf.grad is not None and not leaf.grad.any()
