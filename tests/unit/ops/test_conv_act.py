"""Expected values: torch's own operators in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detcore.ops import native
from detcore.ops.conv_act import conv2d_act, finish_conv_reference, sum_quads_reference

# channels in and out, kernel, stride, groups, height and width, residual, ReLU
CASES = [
    (8, 16, 3, 1, 1, (12, 20), None, True),
    (8, 16, 1, 1, 1, (12, 20), "same", True),
    (8, 16, 1, 1, 1, (12, 20), "half", False),
    (8, 16, 3, 2, 1, (13, 21), None, False),
    (16, 16, 3, 1, 4, (12, 20), "same", False),  # what is not fused rounds before the ReLU, which then turns on and off
    (3, 8, 7, 2, 1, (32, 48), None, True),
    (5, 6, 3, 1, 1, (10, 14), "half", True),
]


def inputs(case: tuple[Any, ...], device: str, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Any]]:
    channels, out, kernel, stride, groups, (height, width), residual, relu = case
    random = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(device=device, dtype=dtype)

    x, weight, bias = draw(2, channels, height, width), draw(out, channels // groups, kernel, kernel), draw(out)
    leaves = [x, weight / (kernel * (channels / groups) ** 0.5), bias]
    size = [(side + stride - 1) // stride for side in (height, width)]
    if residual:
        leaves.append(draw(2, out, *(side // 2 if residual == "half" else side for side in size)))
    return leaves, {"stride": stride, "padding": kernel // 2, "groups": groups, "relu": relu}


def expected(leaves: list[Tensor], stride: int, padding: int, groups: int, relu: bool) -> Tensor:
    x, weight, bias, *residual = leaves
    out = F.conv2d(x, weight, bias, stride, padding, 1, groups)
    if residual:
        out = out + F.interpolate(residual[0], size=out.shape[-2:], mode="nearest")
    return F.relu(out) if relu else out


def gradients(out: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    factor = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
    return list(torch.autograd.grad(out, leaves, factor.to(out)))


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_torchs_operators_give(case: tuple[Any, ...]) -> None:
    leaves, settings = inputs(case, "cpu", torch.float64)
    residual = leaves[3] if len(leaves) > 3 else None
    torch.testing.assert_close(conv2d_act(*leaves[:3], residual=residual, **settings), expected(leaves, **settings))


@pytest.mark.parametrize("case", CASES)
def test_the_operator_and_its_gradients(case: tuple[Any, ...]) -> None:
    leaves, settings = inputs(case, "cpu", torch.float64)
    leaves = [leaf.requires_grad_() for leaf in leaves]
    pairs = [[settings[name]] * 2 for name in ("stride", "padding")]
    residual = leaves[3] if len(leaves) > 3 else None
    arguments = (*leaves[:3], residual, *pairs, [1, 1], settings["groups"], settings["relu"])
    want = expected(leaves, **settings)
    torch.testing.assert_close(torch.ops.detcore.conv2d_act(*arguments), want)
    got, theirs = gradients(torch.ops.detcore.conv2d_act(*arguments), leaves), gradients(want, leaves)
    torch.testing.assert_close(got, theirs)
    torch.library.opcheck(torch.ops.detcore.conv2d_act, arguments)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES)
def test_under_autocast_it_is_right_to_the_dtypes_rounding(case: tuple[Any, ...], dtype: torch.dtype) -> None:
    leaves, settings = inputs(case, "cuda", torch.float32)
    # Both are given what the dtype can hold: rounding the inputs, which turns ReLUs on and off, is nobody's error.
    leaves = [leaf.to(dtype) for leaf in leaves]
    ours, theirs = ([leaf.to(kind).requires_grad_() for leaf in leaves] for kind in (torch.float32, torch.float64))
    with torch.autocast("cuda", dtype=dtype):
        out = conv2d_act(*ours[:3], residual=ours[3] if len(ours) > 3 else None, **settings)
    assert out.dtype == dtype
    want = expected(theirs, **settings)
    for got, right in zip([out, *gradients(out, ours)], [want, *gradients(want, theirs)], strict=True):
        assert (got.double() - right).norm() <= 1e-2 * right.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("channels", [16, 6])
@pytest.mark.parametrize("residual", [None, 1, 2])
def test_the_native_passes_equal_their_references(dtype: torch.dtype, channels: int, residual: int | None) -> None:
    if not native.serves("cuda"):
        pytest.skip("needs the native operators")
    random = torch.Generator().manual_seed(2)
    x = torch.randn((2, channels, 10, 14), generator=random).to(dtype).to(memory_format=torch.channels_last)
    bias = torch.randn(channels, generator=random)
    extra = None if residual is None else torch.randn((2, channels, 10 // residual, 14 // residual), generator=random)
    extra = None if extra is None else extra.to(dtype).to(memory_format=torch.channels_last)
    on_device = None if extra is None else extra.cuda()
    got = torch.ops.detcore.finish_conv(x.cuda(), bias.cuda(), on_device, True)
    assert torch.equal(got.cpu(), finish_conv_reference(x, bias, extra, True))
    torch.testing.assert_close(torch.ops.detcore.sum_quads(x.cuda()).cpu(), sum_quads_reference(x))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"bias": (8,)}, r"conv2d_act: bias is \(8,\)"),
        ({"weight": (16, 8, 3)}, r"conv2d_act: weight is \(16, 8, 3\)"),
        ({"input": (8, 6, 10)}, r"conv2d_act: input is \(8, 6, 10\)"),
        ({"residual": (1, 16, 6, 10)}, r"residual is \(1, 16, 6, 10\).*B = 2"),
        ({"residual": (2, 1, 6, 10)}, r"residual is \(2, 1, 6, 10\).*O = 16"),
        ({"residual": (2, 16, 3, 10)}, r"height and width \(6, 10\), or half"),
        ({"residual": (2, 16, 12, 20)}, r"height and width \(6, 10\), or half"),
    ],
)
def test_shapes_that_do_not_fit(changed: dict[str, tuple[int, ...]], said: str) -> None:
    shapes = {"input": (2, 8, 6, 10), "weight": (16, 8, 3, 3), "bias": (16,), "residual": (2, 16, 6, 10)} | changed
    with pytest.raises(ValueError, match=said):
        conv2d_act(**{name: torch.zeros(shape) for name, shape in shapes.items()}, padding=1)


def test_the_kernel_never_sees_a_residual_of_another_size() -> None:
    """Also not from a compiled graph, in which the function itself compares no sizes."""
    x, weight, bias = torch.zeros(1, 4, 6, 10), torch.zeros(4, 4, 1, 1), torch.zeros(4)
    with pytest.raises(ValueError, match=r"residual is \(1, 4, 2, 5\)"):
        torch.ops.detcore.conv2d_act(x, weight, bias, torch.zeros(1, 4, 2, 5), [1, 1], [0, 0], [1, 1], 1, False)
