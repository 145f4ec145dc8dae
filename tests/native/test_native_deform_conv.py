"""Expected values: the reference, which is torchvision's operator in fp32 or better, on the CPU."""

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from convolutions import PLAIN, SETTINGS, Setting, assert_close, grad_of, to, with_gradients

from detcore.ops import deform_columns

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else torch refuses matrix products
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def assert_equals_the_reference(setting: Setting, dtype: torch.dtype, device: str, generator: torch.Generator) -> None:
    operands = setting.operands(generator, dtype)
    grad = grad_of(setting, operands, generator).to(dtype)
    accurate = torch.promote_types(dtype, torch.float32)
    want = with_gradients(setting.theirs, to(operands, accurate), grad)
    got = with_gradients(setting.ours, to(operands, device), grad.to(device))
    dtypes = [one.dtype for one in got]
    assert dtypes == [dtype, dtype, accurate] + [dtype] * (len(dtypes) - 3)
    assert_close([one.cpu() for one in got], want, TOLERANCE[dtype])


@pytest.mark.parametrize("name", SETTINGS)
def test_values_and_gradients_equal_torchvisions(name: str, device: str, generator: torch.Generator) -> None:
    assert_equals_the_reference(SETTINGS[name], torch.float32, device, generator)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["wide", "odd", "more groups than offset groups"])
def test_every_dtype(name: str, dtype: torch.dtype, device: str, generator: torch.Generator) -> None:
    assert_equals_the_reference(SETTINGS[name], dtype, device, generator)


@pytest.mark.parametrize("name", ["plain", "groups"])
def test_parts_give_what_the_whole_gives(
    name: str, device: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = SETTINGS[name]
    operands = to(setting.operands(generator), device)
    grad = grad_of(setting, to(operands, "cpu"), generator).to(device)
    want = with_gradients(setting.ours, operands, grad)
    # Parts of a few positions, which end within an image.
    monkeypatch.setitem(deform_columns._COLUMN_BYTES, device, 20_000)
    assert_close(with_gradients(setting.ours, operands, grad), want, 1e-5)


@pytest.mark.parametrize("wanted", range(5))
def test_each_gradient_alone(wanted: int, device: str, generator: torch.Generator) -> None:
    setting = SETTINGS["wide"]
    operands = to(setting.operands(generator), device)
    grad = grad_of(setting, to(operands, "cpu"), generator).to(device)
    want = with_gradients(setting.ours, operands, grad)[1 + wanted]
    leaves = [one.clone().requires_grad_(i == wanted) for i, one in enumerate(operands) if one is not None]
    (got,) = torch.autograd.grad(setting.ours(*leaves), leaves[wanted], grad.float())
    assert_close([got], [want], 1e-5)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_deterministic_gradient_repeats_and_equals_torchvisions(
    dtype: torch.dtype, device: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(deform_columns._COLUMN_BYTES, device, 200_000)
    setting = SETTINGS["wide"]
    operands = setting.operands(generator, dtype)
    assert operands[1] is not None
    operands[1] *= 0.1  # many samples on few pixels
    grad = grad_of(setting, operands, generator).to(dtype)
    runs = [with_gradients(setting.ours, to(operands, device), grad.to(device)) for _ in range(3)]
    for one, other in pairwise(runs):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    want = with_gradients(setting.theirs, to(operands, torch.promote_types(dtype, torch.float32)), grad)
    assert_close([one.cpu() for one in runs[0]], want, max(TOLERANCE[dtype], 1e-8))


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_deterministic_gradient_of_numbers_that_are_not_finite_is_not_finite(
    bad: float, device: str, generator: torch.Generator
) -> None:
    operands = PLAIN.operands(generator)
    grad = grad_of(PLAIN, operands, generator)
    grad[0, 1, 4, 4] = bad
    assert not with_gradients(PLAIN.ours, to(operands, device), grad.to(device))[1].isfinite().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_tap_with_an_undefined_offset_reads_zero(value: float, device: str, generator: torch.Generator) -> None:
    x, _, weight, _, _ = PLAIN.operands(generator)
    assert x is not None and weight is not None
    offset = torch.zeros(3, 18, 9, 11)
    offset[:, 8] = value  # dy of the middle tap
    hollow = weight.clone()
    hollow[:, :, 1, 1] = 0
    leaf = offset.to(device).requires_grad_()
    out = PLAIN.ours(x.to(device), leaf, weight.to(device))
    torch.testing.assert_close(out.cpu(), torch.nn.functional.conv2d(x, hollow, padding=1), rtol=1e-4, atol=1e-5)
    (grad,) = torch.autograd.grad(out.sum(), leaf)
    assert not grad[:, 8:10].any() and grad.isfinite().all() and grad.any()


def test_any_layout(device: str, generator: torch.Generator) -> None:
    setting = SETTINGS["wide"]
    operands = setting.operands(generator)
    want = with_gradients(setting.theirs, operands, torch.ones(3, 16, 9, 11))
    moved = [one for one in to(operands, device) if one is not None]
    last = [one if one.dim() < 4 else one.contiguous(memory_format=torch.channels_last) for one in moved]
    every_other = [one.repeat_interleave(2, dim=-1)[..., ::2] for one in moved]
    # Contiguous, but no pack of theirs is aligned.
    odd = [torch.empty(one.numel() + 1, device=device)[1:].view(one.shape).copy_(one) for one in moved]
    odd[0] = odd[0].view(3, 9, 11, 80).copy_(last[0].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    for own in (last, every_other, odd):
        got = with_gradients(setting.ours, list(own), torch.ones(3, 16, 9, 11))
        assert_close([one.cpu() for one in got], want, 2e-5)


def test_the_number_of_threads_does_not_change_what_is_sampled_and_scattered(generator: torch.Generator) -> None:
    x, offset, _, _, mask = SETTINGS["very wide"].operands(generator)
    assert x is not None and offset is not None and mask is not None
    part = ([3, 3], [1, 1], [1, 1], [1, 1], 1, 7, 71)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            columns = torch.ops.detcore.deform_columns(x, offset, mask, *part)
            grads = [torch.zeros(3, 5, 6, 272), torch.zeros_like(offset), torch.zeros_like(mask)]
            results.append([columns.clone(), columns, *grads])
            torch.ops.detcore.deform_columns_backward(columns, x, offset, mask, *grads, None, *part)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_empty_inputs_and_errors(device: str, generator: torch.Generator) -> None:
    x, offset, weight, bias, mask = to(PLAIN.operands(generator), device)
    assert x is not None and offset is not None and weight is not None and mask is not None
    grad = torch.ones(0, 6, 9, 11, device=device)
    out, *grads = with_gradients(PLAIN.ours, [x[:0], offset[:0], weight, bias, mask[:0]], grad)
    assert out.shape == grad.shape and not any(one.any() for one in grads)
    grad = torch.ones(3, 0, 9, 11, device=device)
    out, *grads = with_gradients(PLAIN.ours, [x, offset, weight[:0], None, mask], grad)
    assert out.shape == grad.shape and not any(one.any() for one in grads)
    hollow = Setting(size=(0, 3), padding=2, masked=False).ours(
        x[..., :0, :3], offset[:1, :, :2, :5].repeat(3, 1, 1, 1), weight
    )
    assert hollow.shape == (3, 6, 2, 5) and not hollow.any()
    for broken in (
        lambda: PLAIN.ours(x, offset[:, :-1], weight),
        lambda: PLAIN.ours(x, offset[..., 1:], weight),
        lambda: PLAIN.ours(x[:, 1:], offset, weight),
        lambda: PLAIN.ours(x, offset, weight, None, mask[:, 1:]),
    ):
        with pytest.raises(ValueError, match="deform_conv2d"):
            broken()


@pytest.mark.gpu
def test_more_numbers_than_32_bits_count() -> None:
    if not torch.cuda.is_available() or torch.cuda.mem_get_info()[0] < 32 * 2**30:
        pytest.skip("needs a CUDA device with 32 GB free")
    # 2^31 + 2^27 numbers; the last image's are compared with those of the image alone.
    x = torch.zeros((17, 512, 512, 512), dtype=torch.bfloat16, device="cuda").permute(0, 3, 1, 2)
    x[16].normal_()
    setting = Setting(channels=512, out_channels=8, kernel=(1, 1), stride=64, padding=0)
    offset = torch.randn((17, 2, 8, 8), device="cuda") * 9
    weight = torch.randn((8, 512, 1, 1), dtype=torch.bfloat16, device="cuda")
    grad = torch.randn((17, 8, 8, 8), dtype=torch.bfloat16, device="cuda")
    out, grad_x, grad_offset, _ = with_gradients(setting.ours, [x, offset, weight], grad)
    alone = with_gradients(setting.ours, [x[16:], offset[16:], weight], grad[16:])
    assert_close([out[16:], grad_x[16:], grad_offset[16:]], alone[:3], 2e-2)
