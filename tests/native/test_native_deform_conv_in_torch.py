"""How torch treats the operator: differentiation, compilation, autocast, graphs."""

import pytest
import torch
from convolutions import PLAIN, SETTINGS, Operands, Setting, assert_close, to, with_gradients


@pytest.mark.parametrize("name", ["plain", "more groups than offset groups"])
def test_gradcheck(name: str, device: str) -> None:
    base = SETTINGS[name]
    channels, groups, offset_groups = (2, 1, 1) if name == "plain" else (4, 4, 2)
    setting = Setting(channels, 4, (2, 2), groups, offset_groups, 1, base.padding, 1, (3, 4))
    operands = setting.operands(torch.Generator().manual_seed(1), torch.float64, batch=1)
    leaves = [one.to(device).requires_grad_() for one in operands if one is not None]
    # Atomic sums may differ in their last bits from run to run.
    assert torch.autograd.gradcheck(setting.ours, leaves, nondet_tol=1e-12, fast_mode=True)


@pytest.mark.parametrize("name", ["no mask", "groups"])
def test_opcheck(name: str, device: str, generator: torch.Generator) -> None:
    setting = SETTINGS[name]
    x, offset, weight, bias, mask = to(setting.operands(generator), device)
    pairs = ([1, 1], [1, 1], [1, 1])
    leaves = [None if one is None else one.clone().requires_grad_() for one in (x, offset, weight, bias, mask)]
    close = {"atol": 1e-4, "rtol": 1e-4}
    torch.library.opcheck(torch.ops.detcore.deform_conv2d, (*leaves, *pairs), **close)
    grad = torch.randn((3, setting.out_channels, 9, 11), generator=generator).to(device)
    for needs in ([True, True, True, mask is not None], [False, False, True, False]):
        arguments = (grad, x, offset, weight, mask, *pairs, needs, False)
        torch.library.opcheck(torch.ops.detcore.deform_conv2d_backward, arguments, **close)
    part = ([3, 3], *pairs, setting.groups, 50, 100)
    torch.library.opcheck(torch.ops.detcore.deform_columns, (x, offset, mask, *part))
    columns = torch.ops.detcore.deform_columns(x, offset, mask, *part)
    sums = torch.zeros((3, 9, 11, setting.channels), device=device)
    grads = (sums, torch.zeros_like(offset), None if mask is None else torch.zeros_like(mask), None)
    arguments = (columns, x, offset, mask, *grads, *part)
    torch.library.opcheck(torch.ops.detcore.deform_columns_backward, arguments, **close)


def test_compiles_to_one_graph_of_any_shape(device: str, generator: torch.Generator) -> None:
    setting = SETTINGS["wide"]
    compiled = torch.compile(setting.ours, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (3, 2):
        operands = to(setting.operands(generator, batch=batch), device)
        grad = torch.randn((batch, 16, 9, 11), generator=generator).to(device)
        assert_close(with_gradients(compiled, operands, grad), with_gradients(setting.ours, operands, grad), 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_casts_all_but_the_offsets(dtype: torch.dtype, device: str, generator: torch.Generator) -> None:
    setting = SETTINGS["wide"]
    operands = to(setting.operands(generator), device)
    assert operands[0] is not None
    operands[0] = operands[0].to(dtype)  # as a convolution before it leaves it, with fp32 weights
    grad = torch.randn((3, 16, 9, 11), generator=generator).bfloat16().to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        got = with_gradients(setting.ours, operands, grad)
    assert [one.dtype for one in got] == [torch.bfloat16, dtype] + [torch.float32] * 4
    cast: Operands = [one if i == 1 or one is None else one.bfloat16() for i, one in enumerate(operands)]
    want = with_gradients(setting.ours, cast, grad)
    assert_close([got[0].float()], [want[0].float()], 1e-5)
    # Atomic sums may be rounded to the other side.
    assert_close([one.float() for one in got], [one.float() for one in want], 1e-2)


def test_dtypes_may_differ_without_autocast(device: str, generator: torch.Generator) -> None:
    operands = PLAIN.operands(generator)
    assert operands[0] is not None
    mixed: Operands = [operands[0].bfloat16(), *operands[1:]]
    grad = torch.randn((3, 6, 9, 11), generator=generator)
    got = with_gradients(PLAIN.ours, to(mixed, device), grad.to(device))
    assert [one.dtype for one in got] == [torch.bfloat16] * 2 + [torch.float32] * 4
    assert_close([one.cpu().float() for one in got], with_gradients(PLAIN.theirs, operands, grad), 2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("is_deterministic", [False, True])
def test_the_host_never_waits_and_a_graph_can_hold_it(
    is_deterministic: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    setting = SETTINGS["wide"]
    leaves = [one.cuda().requires_grad_() for one in setting.operands(generator) if one is not None]
    grad = torch.randn((3, 16, 9, 11), generator=generator).cuda()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else torch refuses deterministic matrix products
    torch.use_deterministic_algorithms(is_deterministic)
    try:
        want = torch.autograd.grad(setting.ours(*leaves), leaves, grad)
        torch.cuda.set_sync_debug_mode("error")
        torch.autograd.grad(setting.ours(*leaves), leaves, grad)
        torch.cuda.set_sync_debug_mode("default")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = torch.autograd.grad(setting.ours(*leaves), leaves, grad)
        graph.replay()
        torch.cuda.synchronize()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.use_deterministic_algorithms(False)
    assert_close(list(got), list(want), 1e-4)
