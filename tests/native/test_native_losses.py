"""Expected values: the references in detcore/ops in float64, their gradients those of torch's autograd."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from unattended import assert_runs_unattended, needs_cuda

from detcore import ops
from detcore.ops.box_losses import ciou_loss_reference, diou_loss_reference, giou_loss_reference
from detcore.ops.losses import sigmoid_focal_loss_reference

GENERATOR = torch.Generator().manual_seed(5)
BoxLoss = Callable[..., Tensor]
KINDS = {
    "giou": (ops.giou_loss, giou_loss_reference),
    "diou": (ops.diou_loss, diou_loss_reference),
    "ciou": (ops.ciou_loss, ciou_loss_reference),
}
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-3, torch.float64: 1e-11}
"""Relative, of a gradient that is stored in the dtype."""


def uniform(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GENERATOR)


def boxes(*shape: int) -> Tensor:
    low = uniform(*shape, 2) * 20
    return torch.cat((low, low + uniform(*shape, 2) * 15 + 0.5), dim=-1)


def on_a_grid(*shape: int) -> Tensor:
    """Coordinates of two boxes are often equal, sides often 0 and sometimes negative."""
    low = torch.randint(0, 4, (*shape, 2), generator=GENERATOR)
    return torch.cat((low, low + torch.randint(-1, 4, (*shape, 2), generator=GENERATOR)), dim=-1).float()


def gradients(loss: Tensor, factor: Tensor | None, *leaves: Tensor) -> list[Tensor]:
    factor = factor if factor is None else factor.to(loss)
    return list(torch.autograd.grad(loss.sum() if factor is None else loss, leaves, factor))


LOGITS, LABELS, FACTOR = (uniform(7, 103) - 0.5) * 60, (uniform(7, 103) < 0.3).float(), uniform(7, 103)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [-1.0, 0.25])
@pytest.mark.parametrize("factor", [None, FACTOR])
def test_focal_loss_equals_the_reference(device: str, alpha: float, gamma: float, factor: Tensor | None) -> None:
    ours, theirs = LOGITS.to(device).requires_grad_(), LOGITS.double().requires_grad_()
    loss = ops.sigmoid_focal_loss(ours, LABELS.to(device), alpha=alpha, gamma=gamma)
    want = sigmoid_focal_loss_reference(theirs, LABELS.double(), alpha, gamma)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double().cpu(), want, rtol=2e-5, atol=1e-6)
    (got,), (expected,) = gradients(loss, factor, ours), gradients(want, factor, theirs)
    torch.testing.assert_close(got.double().cpu(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("targets", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.bool])
def test_focal_loss_of_any_dtype(device: str, dtype: torch.dtype, targets: torch.dtype) -> None:
    logits, own = (LOGITS / 8).to(dtype), LABELS.to(targets)
    ours, theirs = logits.to(device).requires_grad_(), logits.double().requires_grad_()
    loss = ops.sigmoid_focal_loss(ours, own.to(device))
    want = sigmoid_focal_loss_reference(theirs, own.double(), 0.25, 2.0)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(loss.double().cpu(), want, rtol=2e-5, atol=1e-6)
    (got,), (expected,) = gradients(loss, FACTOR, ours), gradients(want, FACTOR, theirs)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double().cpu(), expected, rtol=ROUNDING[dtype], atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_gradcheck(device: str, gamma: float) -> None:
    logits, targets = (LOGITS[0, :20] / 8).double().to(device), uniform(20).double().to(device)
    function: Callable[[Tensor], Tensor] = lambda x: ops.sigmoid_focal_loss(x, targets, gamma=gamma)  # noqa: E731
    assert torch.autograd.gradcheck(function, logits.requires_grad_())


def test_focal_loss_of_any_layout(device: str) -> None:
    logits, targets = LOGITS.to(device), LABELS.to(device)
    want = ops.sigmoid_focal_loss(logits, targets)
    shifted = torch.empty(logits.numel() + 1, device=device)[1:].view_as(logits).copy_(logits)
    for own in (logits.T.contiguous().T, shifted):
        assert torch.equal(ops.sigmoid_focal_loss(own, targets), want)
    for count in (0, 1, 2, 3, 5, 1025):
        some = logits.flatten()[:count].clone().requires_grad_()
        loss = ops.sigmoid_focal_loss(some, targets.flatten()[:count])
        assert torch.equal(loss, want.flatten()[:count])
        assert gradients(loss, None, some)[0].isfinite().all()


def test_focal_loss_of_nan_is_nan_there_alone(device: str) -> None:
    loss = ops.sigmoid_focal_loss(torch.tensor([0.0, torch.nan, 1, 2], device=device), torch.ones(4, device=device))
    assert loss.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize("make", [boxes, on_a_grid])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("factor", [None, uniform(3, 211)])
def test_box_loss_equals_the_reference(
    device: str, kind: str, make: Callable[..., Tensor], factor: Tensor | None
) -> None:
    own, reference = KINDS[kind]
    a, b = make(3, 211), make(3, 211)
    b[:, :9] = a[:, :9]
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 2e-5)):
        # Slopes of degenerate boxes are about 1 / eps: with the usual eps, float32 sees only their rounding.
        eps = 1e-3 if dtype == torch.float32 else 1e-7
        ours = [x.to(device, dtype).requires_grad_() for x in (a, b)]
        theirs = [x.double().requires_grad_() for x in (a, b)]
        loss, want = own(*ours, eps=eps), reference(*theirs, eps)
        assert loss.dtype == dtype
        torch.testing.assert_close(loss.double().cpu(), want, rtol=tolerance, atol=tolerance)
        for got, expected in zip(gradients(loss, factor, *ours), gradients(want, factor, *theirs), strict=True):
            torch.testing.assert_close(got.double().cpu(), expected, rtol=tolerance * 10, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_box_loss_of_16_bits_is_computed_in_32(device: str, kind: str, dtype: torch.dtype) -> None:
    own, reference = KINDS[kind]
    a, b = boxes(97).to(dtype), boxes(97).to(dtype)
    ours, theirs = a.to(device).requires_grad_(), a.double().requires_grad_()
    loss, want = own(ours, b.to(device)), reference(theirs, b.double(), 1e-7)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double().cpu(), want, rtol=2e-5, atol=2e-5)
    (got,), (expected,) = gradients(loss, None, ours), gradients(want, None, theirs)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double().cpu(), expected, rtol=ROUNDING[dtype], atol=1e-3)


@pytest.mark.parametrize("kind", ["giou", "diou"])
def test_box_loss_gradcheck(device: str, kind: str) -> None:
    a, b = (boxes(6).double().to(device).requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(KINDS[kind][0], (a, b))
    assert torch.autograd.gradcheck(KINDS[kind][0], (a.detach(), b))


@pytest.mark.parametrize("kind", KINDS)
def test_box_loss_broadcasts_and_takes_any_layout(device: str, kind: str) -> None:
    own, reference = KINDS[kind]
    a, b = boxes(5, 1).double(), boxes(7).double()
    ours = [x.to(device).requires_grad_() for x in (a, b)]
    theirs = [x.clone().requires_grad_() for x in (a, b)]
    loss, want = own(*ours), reference(*theirs, 1e-7)
    torch.testing.assert_close(loss.cpu(), want)
    for got, expected in zip(gradients(loss, None, *ours), gradients(want, None, *theirs), strict=True):
        torch.testing.assert_close(got.cpu(), expected)
    first, second = boxes(33).to(device), boxes(33).to(device)
    want = own(first, second)
    shifted = torch.empty(first.numel() + 1, device=device)[1:].view_as(first).copy_(first)
    for layout in (first.T.contiguous().T, shifted):
        assert torch.equal(own(layout, second), want)
    assert own(first.double(), second).dtype == torch.float64
    assert torch.equal(own(first.long(), second), own(first.long().float(), second))
    assert own(first[0], second[0]).shape == () and own(first[:0], second[:0]).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_box_loss_of_degenerate_boxes_is_finite(device: str, kind: str) -> None:
    values = torch.tensor([0.0, 1, 2, 1e-8, -3, 1e6, 2e4])
    every = torch.cartesian_prod(values, values, values, values)
    first = every.repeat_interleave(9, 0).to(device).requires_grad_()
    second = every[torch.randint(0, len(every), (len(first),), generator=GENERATOR)].to(device).requires_grad_()
    loss = KINDS[kind][0](first, second)
    assert loss.isfinite().all() and all(grad.isfinite().all() for grad in gradients(loss, None, first, second))
    assert KINDS[kind][0](first * torch.nan, second).isnan().all()


def test_boxes_of_the_wrong_shape(device: str) -> None:
    with pytest.raises(ValueError, match=r"\(\.\.\., 4\)"):
        ops.giou_loss(torch.zeros(3, 5, device=device), torch.zeros(3, 5, device=device))


def test_second_derivatives_are_refused(device: str) -> None:
    logits, a = LOGITS.to(device).requires_grad_(), boxes(5).to(device).requires_grad_()
    for loss, leaf in ((ops.sigmoid_focal_loss(logits, LABELS.to(device)), logits), (ops.ciou_loss(a, a + 1), a)):
        (grad,) = torch.autograd.grad(loss.sum(), leaf, create_graph=True)
        with pytest.raises(NotImplementedError, match="second derivatives"):
            grad.square().sum().backward()


def test_under_autocast_they_compute_in_fp32(device: str) -> None:
    logits, labels, first, second = (x.to(device) for x in (LOGITS, LABELS, boxes(50), boxes(50)))
    with torch.autocast(device, dtype=torch.bfloat16):
        focal, box = ops.sigmoid_focal_loss(logits, labels), ops.ciou_loss(first, second)
    assert torch.equal(focal, ops.sigmoid_focal_loss(logits, labels))
    assert torch.equal(box, ops.ciou_loss(first, second))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(device: str, dtype: torch.dtype) -> None:
    logits, labels, grad = LOGITS.to(device, dtype), LABELS.to(device), FACTOR.to(device)
    first, second = boxes(7, 5).to(device, dtype), boxes(7, 5).to(device, dtype)
    focal, box = torch.ops.detcore.sigmoid_focal_loss, torch.ops.detcore.box_iou_loss
    torch.library.opcheck(focal, (logits.requires_grad_(), labels, 0.25, 1.5))
    torch.library.opcheck(torch.ops.detcore.sigmoid_focal_loss_backward, (grad, logits.detach(), labels, 0.25, 2.0))
    for kind in range(3):
        backward = (grad[:, :5], first.detach(), second, kind, 1e-7)
        torch.library.opcheck(torch.ops.detcore.box_iou_loss_backward, (*backward, True, kind == 1))
    torch.library.opcheck(box, (first.requires_grad_(), second, 2, 1e-7))


def test_they_are_one_graph(device: str) -> None:
    def call(logits: Tensor, labels: Tensor, first: Tensor, second: Tensor) -> Tensor:
        return ops.sigmoid_focal_loss(logits, labels).sum() + ops.ciou_loss(first, second).sum()

    arguments = [x.to(device) for x in (LOGITS, LABELS, boxes(50), boxes(50))]
    assert torch.equal(torch.compile(call, backend="eager", fullgraph=True)(*arguments), call(*arguments))


@pytest.mark.gpu
@needs_cuda
def test_the_host_is_not_needed() -> None:
    logits, labels = LOGITS.cuda().requires_grad_(), LABELS.cuda()
    first, second = boxes(500).cuda().requires_grad_(), boxes(500).cuda()

    def call() -> tuple[Tensor, ...]:
        focal, box = ops.sigmoid_focal_loss(logits, labels), ops.ciou_loss(first, second)
        return focal.detach(), box.detach(), *torch.autograd.grad(focal.sum() + box.sum(), (logits, first))

    assert_runs_unattended(call)


@pytest.mark.gpu
@needs_cuda
def test_more_logits_than_32_bits_count() -> None:
    count = 2**31 + 5
    if torch.cuda.mem_get_info()[0] < 14 * count:
        pytest.skip("needs 28 GiB of free GPU memory")
    logits = torch.zeros(count, dtype=torch.bfloat16, device="cuda")
    logits[-3:] = torch.tensor([1.0, -2, 3])
    loss = ops.sigmoid_focal_loss(logits, torch.zeros_like(logits))
    want = sigmoid_focal_loss_reference(logits[-5:].float(), torch.zeros(5, device="cuda"), 0.25, 2.0)
    torch.testing.assert_close(loss[-5:], want)
