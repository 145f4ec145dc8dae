"""Expected values: torchvision's losses where they are defined, closed forms elsewhere."""

import math
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor

from detcore.ops import ciou_loss, diou_loss, giou_loss, sigmoid_focal_loss

PAIRS = [
    (giou_loss, torchvision.ops.generalized_box_iou_loss),
    (diou_loss, torchvision.ops.distance_box_iou_loss),
    (ciou_loss, torchvision.ops.complete_box_iou_loss),
]


def boxes(seed: int, count: int = 40, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand((count, 2), generator=generator, dtype=dtype) * 10
    return torch.cat((corner, corner + torch.rand((count, 2), generator=generator, dtype=dtype) * 12 + 0.5), dim=1)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_losses_and_gradients_equal_torchvision(ours: Callable[..., Tensor], theirs: Callable[..., Tensor]) -> None:
    a, b = boxes(0).requires_grad_(), boxes(1).requires_grad_()
    got, want = ours(a, b), theirs(a, b)
    torch.testing.assert_close(got, want)
    weights = torch.arange(40.0).double()
    for g, w in zip(
        torch.autograd.grad((got * weights).sum(), (a, b)),
        torch.autograd.grad((want * weights).sum(), (a, b)),
        strict=True,
    ):
        torch.testing.assert_close(g, w)


@pytest.mark.parametrize("loss", [giou_loss, diou_loss])
def test_gradcheck(loss: Callable[..., Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, (boxes(2, 5).requires_grad_(), boxes(3, 5).requires_grad_()))


def test_closed_forms() -> None:
    a, b = torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[2.0, 0, 6, 2]])
    # No overlap: union 12 fills the hull 6 x 2; centres 3 apart, diagonal sqrt(40); slants pi/4 and atan 2.
    torch.testing.assert_close(giou_loss(a, b), torch.tensor([1.0]))
    torch.testing.assert_close(diou_loss(a, b), torch.tensor([1 + 9 / 40]))
    v = 4 / math.pi**2 * (math.atan(2) - math.pi / 4) ** 2
    torch.testing.assert_close(ciou_loss(a, b), torch.tensor([1 + 9 / 40 + v * v / (1 + v)]))
    for loss in (giou_loss, diou_loss, ciou_loss):
        torch.testing.assert_close(loss(a, a), torch.zeros(1))


@pytest.mark.parametrize("loss", [giou_loss, diou_loss, ciou_loss])
def test_degenerate_boxes_have_finite_losses_and_gradients(loss: Callable[..., Tensor]) -> None:
    a = torch.tensor([[1.0, 1, 1, 1], [3, 3, 1, 1], [0, 0, 0, 5], [0, 0, 4, 4]], requires_grad=True)
    b = torch.tensor([[1.0, 1, 1, 1], [0, 0, 2, 2], [0, 0, 0, 5], [5, 5, 5, 5]])
    value = loss(a, b)
    value.sum().backward()
    assert value.isfinite().all() and a.grad is not None and a.grad.isfinite().all()
    assert loss(a, b * torch.nan).isnan().all()
    assert loss(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
    assert loss(a.bfloat16(), b.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (-1.0, 1.5), (0.7, 0.0)])
def test_focal_loss_equals_torchvision(alpha: float, gamma: float) -> None:
    logits = torch.linspace(-8, 8, 24, dtype=torch.float64).view(4, 6).requires_grad_()
    targets = (torch.arange(24).view(4, 6) % 3 == 0).double()
    want = torchvision.ops.sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma), want)
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, targets, alpha=alpha, gamma=gamma), logits)


def test_focal_loss_at_the_ends() -> None:
    logits = torch.tensor([60.0, -60, 60, -60], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1.0, 0, 0, 1]))
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([0, 0, 60 * 0.75, 60 * 0.25]))
    assert logits.grad is not None and logits.grad.isfinite().all()
    # exp(-20) of the probability is missing, which float32 cannot see in 1 - sigmoid(20): the loss is exp(-60) / 4.
    tiny = sigmoid_focal_loss(torch.tensor([20.0]), torch.ones(1))
    torch.testing.assert_close(tiny, torch.tensor([math.exp(-60) / 4]), rtol=1e-3, atol=0)
    assert sigmoid_focal_loss(torch.zeros(2, 0), torch.zeros(2, 0)).shape == (2, 0)
    assert sigmoid_focal_loss(torch.zeros(2).half(), torch.zeros(2)).dtype == torch.float32
