"""Expected values: the reference on the CPU, in float32 or wider."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from detcore.ops import roi_align, roi_align_rotated
from detcore.ops.roi_align_rotated import roi_align_rotated_reference

SCALE = 0.25


def rois(generator: torch.Generator) -> Tensor:
    image = torch.randint(-1, 3, (40, 1), generator=generator)
    centre, sides = (torch.rand((40, 2), generator=generator) for _ in range(2))
    angle = torch.rand((40, 1), generator=generator) * 720 - 360
    out = torch.cat((image, centre * 200 - 20, sides**2 * 150, angle), dim=1)
    for column, value in enumerate((torch.nan, torch.inf, -torch.inf, torch.nan, torch.inf, torch.nan)):
        out[column, column] = value
    out[6, 3:5], out[7, 3] = 0, -5.0
    out[8, 1:5] = torch.tensor([50.0, 50, 1e30, 1e30])
    out[9, 1], out[10, 5] = 1e30, 3600045.0
    out[11:16, 5] = torch.tensor([0.0, 90, 180, 270, 360]) + 1e-3
    out[16] = torch.tensor([1, 80.0, 60, 1000, 700, 33])
    return out


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("sampling", "channels"), [(0, 3), (2, 72)])
def test_values_and_gradients_equal_the_reference(
    sampling: int, channels: int, dtype: torch.dtype, last: bool, device: str, generator: torch.Generator
) -> None:
    layout = torch.channels_last if last else torch.contiguous_format
    features = torch.randn((2, channels, 40, 56), generator=generator).to(dtype).contiguous(memory_format=layout)
    own = rois(generator)
    ours = features.to(device).clone().requires_grad_()
    theirs = features.to(torch.promote_types(dtype, torch.float32)).clone().requires_grad_()
    pooled = roi_align_rotated(ours, own.to(device), (5, 3), SCALE, sampling)
    want = roi_align_rotated_reference(theirs, own, (5, 3), SCALE, sampling)
    assert pooled.dtype == dtype and pooled.is_contiguous(memory_format=layout)
    tolerance = 1e-4 if dtype in (torch.float32, torch.float64) else 1e-2
    torch.testing.assert_close(pooled.to("cpu", want.dtype), want, rtol=tolerance, atol=tolerance)
    grad = torch.randn(pooled.shape, generator=generator).to(dtype)
    pooled.backward(grad.to(device))
    want.backward(grad.to(want.dtype))
    assert ours.grad is not None and theirs.grad is not None and ours.grad.dtype == dtype
    torch.testing.assert_close(ours.grad.to("cpu", want.dtype), theirs.grad, rtol=tolerance, atol=10 * tolerance)


def test_without_an_angle_it_is_roi_align(device: str, generator: torch.Generator) -> None:
    features = torch.randn((2, 8, 40, 56), generator=generator).to(device)
    centre, sides = torch.rand((20, 2), generator=generator) * 200, torch.rand((20, 2), generator=generator) * 90
    image = torch.randint(0, 2, (20, 1), generator=generator)
    turned = torch.cat((image, centre, sides, torch.zeros(20, 1)), dim=1).to(device)
    upright = torch.cat((image, centre - sides / 2, centre + sides / 2), dim=1).to(device)
    torch.testing.assert_close(
        roi_align_rotated(features, turned, 7, SCALE, 2),
        roi_align(features, upright, 7, SCALE, 2),
        rtol=1e-4,
        atol=1e-4,
    )


def test_any_strides_and_no_input(device: str, generator: torch.Generator) -> None:
    features, own = torch.randn((2, 6, 40, 56), generator=generator), rois(generator)
    ours = features.to(device)
    for view in (lambda f: f[:, ::2], lambda f: f.transpose(2, 3), lambda f: f[:0], lambda f: f[:, :, :0]):
        want = roi_align_rotated_reference(view(features), own, (4, 4), SCALE, 2) if view(features).numel() else None
        pooled = roi_align_rotated(view(ours), own.to(device).repeat(1, 2)[:, :6], 4, SCALE, 2).cpu()
        torch.testing.assert_close(pooled, torch.zeros_like(pooled) if want is None else want, rtol=1e-4, atol=1e-4)
    leaf = ours.clone().requires_grad_()
    roi_align_rotated(leaf, own[:0].to(device), 4, SCALE, 0).sum().backward()
    assert leaf.grad is not None and not leaf.grad.any()


def test_gradcheck(device: str) -> None:
    features = torch.rand((2, 2, 5, 6), dtype=torch.float64).to(device).requires_grad_()
    own = torch.tensor([[0, 3.0, 2, 4, 3, 30], [1, 5, 4, 6, 2, -100]], dtype=torch.float64, device=device)
    for sampling in (0, 2):
        pool: Callable[[Tensor], Tensor] = lambda f, s=sampling: roi_align_rotated(f, own, 2, 1.0, s)  # noqa: E731
        assert torch.autograd.gradcheck(pool, features)


def test_opcheck(device: str, generator: torch.Generator) -> None:
    features = torch.randn((2, 3, 40, 56), generator=generator).to(device).requires_grad_()
    own = rois(generator).to(device)
    torch.library.opcheck(torch.ops.detcore.roi_align_rotated, (features, own, SCALE, 5, 3, 2, False))
    grad = torch.randn((40, 3, 5, 3), generator=generator).to(device)
    torch.library.opcheck(torch.ops.detcore.roi_align_rotated_backward, (grad, own, SCALE, 40, 56, 2, 0, True))


def test_every_run_and_number_of_threads_gives_the_same_bits(device: str, generator: torch.Generator) -> None:
    features, own = torch.randn((2, 70, 40, 56), generator=generator).to(device), rois(generator).to(device)
    results = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            leaf = features.clone().requires_grad_()
            pooled = roi_align_rotated(leaf, own, 7, SCALE, 2)
            pooled.square().sum().backward()
            results.append((pooled.detach(), leaf.grad))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("sampling", [0, 2])
def test_a_graph_captures_it_and_the_host_never_waits(sampling: int, generator: torch.Generator) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    features = torch.randn((2, 70, 40, 56), generator=generator).cuda().requires_grad_()
    own = rois(generator).cuda()

    def run() -> list[Tensor]:
        pooled = roi_align_rotated(features, own, 7, SCALE, sampling)
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
    own.copy_(rois(generator))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, run(), strict=True))
