"""The losses against their formulas, written out on small numbers."""

import math

import pytest
import torch

from detcore.losses.box_head import box_head_losses, softmax_class_losses
from detcore.losses.mask import mask_loss
from detcore.losses.normalizer import global_mean_divisor
from detcore.losses.regression import smooth_l1
from detcore.losses.rpn import rpn_losses


@pytest.mark.parametrize(("count", "divisor"), [(0.0, 1.0), (1.0, 1.0), (7.0, 7.0)])
def test_divisor_of_one_process_is_the_count_but_never_zero(count: float, divisor: float) -> None:
    assert global_mean_divisor(torch.tensor(count)).item() == divisor


def test_smooth_l1() -> None:
    difference, zero = torch.tensor([-2.0, -0.25, 0.0, 0.25, 2.0]), torch.zeros(5)
    assert smooth_l1(difference, zero, beta=0.0).tolist() == [2.0, 0.25, 0.0, 0.25, 2.0]
    # 0.5 x^2 / beta below beta, |x| - beta / 2 above
    assert smooth_l1(difference, zero, beta=0.5).tolist() == [1.75, 0.0625, 0.0, 0.0625, 1.75]


def test_rpn_losses_count_samples_and_divide_by_what_was_asked_for() -> None:
    losses = rpn_losses(
        logits=torch.tensor([[2.0, -1.0, 50.0]]),
        positive=torch.tensor([[True, False, False]]),
        sampled=torch.tensor([[True, True, False]]),
        box_losses=torch.tensor([[10.0, 36.0]]),
        box_counts=torch.tensor([[True, False]]),
        num_images=torch.tensor(2),
        samples_per_image=4,
    )
    cross_entropy = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))
    assert losses["loss_rpn_cls"].item() == pytest.approx(cross_entropy / 8, rel=1e-6)
    assert losses["loss_rpn_loc"].item() == pytest.approx(10 / 8)


def test_box_head_losses_divide_by_sampled_proposals() -> None:
    logits = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 90.0, 0.0]]])
    losses = box_head_losses(
        class_losses=softmax_class_losses(logits, torch.tensor([[0, 2, 2]])),  # two classes, 2 is the background
        sampled=torch.tensor([[True, True, False]]),
        box_losses=torch.tensor([[2.0, 7.0]]),
        positive=torch.tensor([[True, False]]),
    )
    cross_entropy = math.log(math.e + 2) - 1 + math.log(3)
    assert losses["loss_cls"].item() == pytest.approx(cross_entropy / 2, rel=1e-6)
    assert losses["loss_box_reg"].item() == pytest.approx(2.0 / 2)


def test_mask_loss_is_the_mean_over_pixels_of_positives() -> None:
    logits = torch.tensor([[[0.0, 3.0], [0.0, 3.0]], [[8.0, 8.0], [8.0, 8.0]]])
    targets = torch.tensor([[[True, True], [False, True]], [[False, False], [False, False]]])
    loss = mask_loss(logits=logits, targets=targets, positive=torch.tensor([True, False]))["loss_mask"]
    assert loss.item() == pytest.approx((2 * math.log(2) + 2 * math.log(1 + math.exp(-3))) / 4, rel=1e-6)


def test_losses_without_samples_are_zero_and_differentiable() -> None:
    logits = torch.zeros(1, 3, 3, requires_grad=True)
    boxes = torch.ones(1, 2, requires_grad=True)
    never = torch.zeros(1, 3, dtype=torch.bool)
    losses = box_head_losses(
        class_losses=softmax_class_losses(logits, torch.full((1, 3), 2)),
        sampled=never,
        box_losses=boxes,
        positive=never[:, :2],
    )
    sum(losses.values()).backward()
    assert sum(losses.values()).item() == 0.0
    assert not logits.grad.any() and not boxes.grad.any()


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_losses_are_computed_in_float32_or_better(dtype: torch.dtype, expected: torch.dtype) -> None:
    one = torch.ones(1, dtype=torch.bool)
    assert (
        mask_loss(logits=torch.zeros(1, 2, 2, dtype=dtype), targets=one.expand(1, 2, 2), positive=one)[
            "loss_mask"
        ].dtype
        == expected
    )
