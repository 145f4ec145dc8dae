"""Box losses by their kind, and the classes of a federated loss."""

import math

import pytest
import torch

from detcore.losses.box_head import sigmoid_class_losses
from detcore.losses.federated import federated_classes
from detcore.losses.regression import box_loss
from detcore.structures.boxes import BoxCoder

CODER = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
REFERENCES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 4.0]])
TARGETS = torch.tensor([[5.0, 0.0, 15.0, 10.0], [0.0, 0.0, 4.0, 4.0]])


# The first reference and its target share a third of their union, and the hull is the union. Centres are 5 apart, the
# hull's diagonal squared is 15^2 + 10^2. Both are squares of one size, so CIoU's last term is 0.
@pytest.mark.parametrize(
    ("kind", "expected"),
    [("smooth_l1", 10 * 0.5), ("giou", 2 / 3), ("diou", 2 / 3 + 25 / 325), ("ciou", 2 / 3 + 25 / 325)],
)
def test_loss_of_each_kind(kind: str, expected: float) -> None:
    offsets = torch.zeros(2, 4, dtype=torch.bfloat16, requires_grad=True)
    losses = box_loss(offsets, REFERENCES, TARGETS, coder=CODER, kind=kind, beta=0.0)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, torch.tensor([expected, 0.0]), atol=1e-5, rtol=1e-5)
    losses.sum().backward()
    assert offsets.grad.isfinite().all() and offsets.grad[0, 0] < 0  # moving right lowers the loss


@pytest.mark.parametrize("kind", ["smooth_l1", "giou", "diou", "ciou"])
def test_padding_has_finite_gradients(kind: str) -> None:
    offsets = torch.zeros(1, 4, requires_grad=True)
    (0 * box_loss(offsets, torch.zeros(1, 4), torch.zeros(1, 4), coder=CODER, kind=kind, beta=0.0)).sum().backward()
    assert not offsets.grad.any()


def test_sigmoid_losses_are_sums_over_the_classes_that_count() -> None:
    logits = torch.tensor([[[2.0, -1.0, 50.0], [0.0, 3.0, -50.0]]])  # the last, the background's, is not looked at
    labels = torch.tensor([[0, 2]])

    def entropy(logit: float, target: int) -> float:
        return math.log(1 + math.exp(-logit if target else logit))

    every = torch.tensor([[entropy(2, 1) + entropy(-1, 0), entropy(0, 0) + entropy(3, 0)]])
    torch.testing.assert_close(sigmoid_class_losses(logits, labels, None), every)
    second = sigmoid_class_losses(logits, labels, torch.tensor([[False, True]]))
    torch.testing.assert_close(second, torch.tensor([[entropy(-1, 0), entropy(3, 0)]]))


def test_federated_classes_are_those_present_and_others_by_weight() -> None:
    draws = 4000
    labels = torch.tensor([[1, 6, 1, 6]]).expand(draws, -1)  # 6 is the background
    sampled = torch.tensor([[True, True, True, True]]).expand(draws, -1)
    weights = torch.tensor([1.0, 1.0, 2.0, 3.0, 0.0, 6.0])
    keys = torch.rand(draws, 6, generator=torch.Generator().manual_seed(0))
    # Three classes, of which one is present and the background is another: one is drawn of those of weight 1, 2, 3, 6.
    drawn = federated_classes(labels, sampled, weights=weights, keys=keys, num_classes_per_image=3)
    assert drawn[:, 1].all() and not drawn[:, 4].any() and (drawn.sum(dim=1) == 2).all()
    expected = torch.tensor([1.0, 12.0, 2.0, 3.0, 0.0, 6.0]) / 12
    torch.testing.assert_close(drawn.float().mean(dim=0), expected, atol=0.025, rtol=0)  # 3 standard deviations

    # Without replacement: with two draws, torch.multinomial's frequencies are those of the same definition.
    drawn = federated_classes(labels, sampled, weights=weights, keys=keys, num_classes_per_image=4)
    others = torch.where(torch.arange(6) == 1, 0.0, weights).expand(draws, -1)
    torch.manual_seed(0)
    pairs = torch.zeros(draws, 6).scatter(1, torch.multinomial(others, 2), 1.0)
    found = torch.where(torch.arange(6) == 1, 0.0, drawn.float())
    torch.testing.assert_close(found.mean(dim=0), pairs.mean(dim=0), atol=0.035, rtol=0)


def test_federated_classes_without_room_or_regions() -> None:
    labels = torch.tensor([[0, 1, 2, 3], [3, 3, 0, 3]])
    sampled = torch.tensor([[True, True, True, False], [False, False, False, False]])
    keys = torch.tensor([[0.5, 0.5, 0.5]] * 2)
    drawn = federated_classes(labels, sampled, weights=torch.ones(3), keys=keys, num_classes_per_image=1)
    assert drawn[0].tolist() == [True, True, True]  # all that are there, though more than asked for
    assert drawn[1].sum() == 1
    many = federated_classes(labels, sampled, weights=torch.ones(3), keys=keys, num_classes_per_image=50)
    assert many.all()
