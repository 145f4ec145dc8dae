"""Expected values: torch's own group norm in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detcore.ops.group_norm import group_norm_act, group_norm_act_backward_reference, group_norm_act_reference

# channels, groups, height and width
SHAPES = [(64, 32, (9, 13)), (8, 4, (5, 7)), (96, 3, (4, 6)), (512, 32, (1, 3)), (2048, 32, (3, 5))]


def inputs(channels: int, size: tuple[int, int], residual: bool, device: str = "cpu") -> list[Tensor]:
    """In float64: the map with a mean far from 0, weight, bias and, if asked for, a residual."""
    random = torch.Generator().manual_seed(3)
    x, extra = torch.randn((2, 2, channels, *size), generator=random, dtype=torch.float64)
    weight, bias = torch.randn((2, channels), generator=random, dtype=torch.float64)
    return [leaf.to(device) for leaf in (x * 2 + 5, weight, bias, *([extra] if residual else []))]


def expected(leaves: list[Tensor], groups: int, relu: bool) -> Tensor:
    x, weight, bias, *residual = leaves
    out = F.group_norm(x, groups, weight, bias, 1e-5)
    out = out + residual[0] if residual else out
    return F.relu(out) if relu else out


def gradients(out: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    factor = torch.linspace(-1, 2, out.numel(), dtype=torch.float64).view(out.shape)
    return list(torch.autograd.grad(out, leaves, factor.to(out)))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_the_operator_and_its_gradients(residual: bool, relu: bool) -> None:
    leaves = [leaf.requires_grad_() for leaf in inputs(8, (5, 7), residual)]
    arguments = (*leaves[:3], leaves[3] if residual else None, 4, 1e-5, relu)
    got, want = torch.ops.detcore.group_norm_act(*arguments)[0], expected(leaves, 4, relu)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(gradients(got, leaves), gradients(want, leaves))
    torch.library.opcheck(torch.ops.detcore.group_norm_act, arguments)
    torch.testing.assert_close(
        group_norm_act(*leaves[:3], num_groups=4, residual=arguments[3], relu=relu).detach(), want.detach()
    )


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize(("channels", "groups", "size"), SHAPES)
def test_the_kernels_are_right_to_the_dtypes_rounding(
    channels: int,
    groups: int,
    size: tuple[int, int],
    residual: bool,
    relu: bool,
    dtype: torch.dtype,
    rounding: float,
) -> None:
    given = inputs(channels, size, residual, "cuda")
    # What is stored in the dtype is what both are given: rounding it is nobody's error.
    given = [leaf.to(dtype) if leaf.ndim == 4 else leaf.float() for leaf in given]
    ours = [leaf.clone().requires_grad_() for leaf in given]
    theirs = [leaf.double().requires_grad_() for leaf in given]
    out = group_norm_act(*ours[:3], num_groups=groups, residual=ours[3] if residual else None, relu=relu)
    assert out.dtype == dtype
    if channels * out.element_size() <= 4096:  # wider maps are not the kernels'
        assert out.is_contiguous(memory_format=torch.channels_last)
    want = expected(theirs, groups, relu)
    for got, right in zip([out, *gradients(out, ours)], [want, *gradients(want, theirs)], strict=True):
        assert (got.double() - right).norm() <= rounding * right.norm()


@pytest.mark.gpu
def test_a_second_run_gives_the_same_bits() -> None:
    leaves = [leaf.bfloat16() for leaf in inputs(256, (50, 70), True, "cuda")]
    x, weight, bias, residual = (leaf.requires_grad_() for leaf in leaves)
    runs = []
    for _ in range(2):
        out = group_norm_act(x, weight, bias, num_groups=32, residual=residual, relu=True)
        runs.append([out, *gradients(out, [x, weight, bias, residual])])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_the_references_round_once() -> None:
    """Half precision is computed in float32."""
    x, weight, bias = inputs(8, (5, 7), False)
    half = x.bfloat16()
    out, stats = group_norm_act_reference(half, weight.float(), bias.float(), None, 4, 1e-5, False)
    assert out.dtype == torch.bfloat16 and stats.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected([half.double(), weight, bias], 4, False), rtol=5e-3, atol=5e-3)
    grads = group_norm_act_backward_reference(out, half, None, weight.float(), bias.float(), stats, 4, False)
    assert [part.dtype for part in grads] == [torch.bfloat16, torch.float32, torch.bfloat16]


@pytest.mark.parametrize(
    ("changed", "groups", "said"),
    [
        ({"weight": (4,)}, 2, r"group_norm_act: weight is \(4,\)"),
        ({"bias": (1,)}, 2, r"group_norm_act: bias is \(1,\)"),
        ({"input": (8, 6, 10)}, 2, r"group_norm_act: input is \(8, 6, 10\)"),
        ({"residual": (1, 8, 6, 10)}, 2, r"residual is \(1, 8, 6, 10\).*B = 2"),
        ({"residual": (2, 8, 3, 10)}, 2, r"height and width \(6, 10\), or half"),
        ({}, 3, "8 channels cannot be divided into 3 groups"),
        ({}, 0, "into 0 groups"),
    ],
)
def test_arguments_that_do_not_fit(changed: dict[str, tuple[int, ...]], groups: int, said: str) -> None:
    shapes = {"input": (2, 8, 6, 10), "weight": (8,), "bias": (8,), "residual": (2, 8, 6, 10)} | changed
    with pytest.raises(ValueError, match=said):
        group_norm_act(**{name: torch.zeros(shape) for name, shape in shapes.items()}, num_groups=groups)


@pytest.mark.parametrize("shape", [(0, 8, 6, 4), (2, 8, 0, 4)])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_an_empty_map(shape: tuple[int, ...], device: str) -> None:
    x, residual = torch.zeros((2, *shape), dtype=torch.bfloat16, device=device).requires_grad_()
    weight, bias = torch.ones((2, 8), device=device, dtype=torch.bfloat16).requires_grad_().unbind()
    out = group_norm_act(x, weight, bias, num_groups=4, residual=residual, relu=True)
    assert out.shape == shape and out.dtype == x.dtype
    for gradient, leaf in zip(torch.autograd.grad(out.sum(), (x, weight, bias)), (x, weight, bias), strict=True):
        torch.testing.assert_close(gradient, torch.zeros_like(leaf))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_mean_far_from_0_costs_no_digits(device: str) -> None:
    x = torch.randn(2, 64, 20, 24, generator=torch.Generator().manual_seed(0)) + 100
    weight, bias = torch.ones(64), torch.zeros(64)
    want = F.group_norm(x.double(), 32)
    moved = (part.to(device) for part in (x.contiguous(memory_format=torch.channels_last), weight, bias))
    # The inputs themselves are known to 100 * 2 ** -24.
    torch.testing.assert_close(group_norm_act(*moved, num_groups=32).cpu().double(), want, atol=5e-5, rtol=0)
