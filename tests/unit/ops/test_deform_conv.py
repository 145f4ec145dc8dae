"""Expected values: an ordinary convolution where offsets are 0 or whole pixels; torchvision's operator."""

import pytest
import torch
import torchvision

from detcore.ops import deform_conv2d

GENERATOR = torch.Generator().manual_seed(0)
INPUT = torch.rand((2, 4, 7, 8), generator=GENERATOR)
WEIGHT = torch.rand((6, 2, 3, 3), generator=GENERATOR)
BIAS = torch.rand(6, generator=GENERATOR)


def test_without_offsets_it_is_a_convolution() -> None:
    offset = torch.zeros(2, 2 * 2 * 9, 4, 4)
    want = torch.nn.functional.conv2d(INPUT, WEIGHT, BIAS, stride=2, padding=1, groups=2)
    torch.testing.assert_close(deform_conv2d(INPUT, offset, WEIGHT, BIAS, 2, 1), want)
    mask = torch.full((2, 2 * 9, 4, 4), 0.5)
    want = torch.nn.functional.conv2d(INPUT / 2, WEIGHT, None, stride=2, padding=1, groups=2)
    torch.testing.assert_close(deform_conv2d(INPUT, offset, WEIGHT, None, 2, 1, 1, mask), want)
    half = deform_conv2d(INPUT.bfloat16(), offset.bfloat16(), WEIGHT.bfloat16(), None, 2, 1, 1, mask.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), want, rtol=2e-2, atol=2e-2)


def test_an_offset_of_whole_pixels_moves_the_input() -> None:
    offset = torch.zeros(2, 18, 5, 6)
    offset[:, 0::2], offset[:, 1::2] = 1, -2
    weight = torch.rand(6, 4, 3, 3)
    moved = torch.zeros_like(INPUT)
    moved[:, :, :-1, 2:] = INPUT[:, :, 1:, :-2]
    want = torch.nn.functional.conv2d(moved, weight)
    torch.testing.assert_close(deform_conv2d(INPUT, offset, weight), want)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_tap_with_an_undefined_offset_reads_zero(value: float) -> None:
    offset = torch.zeros(2, 18, 5, 6)
    offset[:, 8] = value  # dy of the middle tap
    offset.requires_grad_()
    weight = torch.rand(6, 4, 3, 3)
    hollow = weight.clone()
    hollow[:, :, 1, 1] = 0
    out = deform_conv2d(INPUT, offset, weight)
    torch.testing.assert_close(out, torch.nn.functional.conv2d(INPUT, hollow))
    out.sum().backward()
    assert offset.grad is not None and not offset.grad[:, 8].any()


def test_gradients() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = ((1, 2, 4, 4), (1, 16, 3, 3), (2, 2, 2, 2), (2,), (1, 8, 3, 3))
    tensors = [torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]
    assert torch.autograd.gradcheck(lambda x, o, w, b, m: deform_conv2d(x, o, w, b, 1, 0, 1, m), tensors)


def test_equals_torchvision_and_survives_an_empty_batch() -> None:
    offset = torch.randn((2, 18, 7, 8), generator=GENERATOR)
    weight = torch.rand(6, 4, 3, 3)
    want = torchvision.ops.deform_conv2d(INPUT, offset, weight, BIAS, 1, 2, 2)
    torch.testing.assert_close(deform_conv2d(INPUT, offset, weight, BIAS, 1, 2, 2), want)
    assert deform_conv2d(INPUT[:0], offset[:0], weight, BIAS, 1, 2, 2).shape == (0, 6, 7, 8)
