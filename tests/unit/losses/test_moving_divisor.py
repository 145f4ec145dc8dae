"""The moving average of a count that losses are divided by."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from detcore.losses import normalizer
from detcore.losses.normalizer import MovingDivisor


def test_it_moves_by_a_tenth_and_is_saved() -> None:
    divisor = MovingDivisor(initial=100.0)
    # 0.9 * 100 + 0.1 * 20 = 92; 0.9 * 92 + 0.1 * max(0, 1) = 82.9
    assert divisor(torch.tensor(20.0)).item() == pytest.approx(92.0)
    resumed = MovingDivisor(initial=100.0)
    resumed.load_state_dict(divisor.state_dict())
    assert resumed(torch.tensor(0.0)).item() == pytest.approx(82.9)


def test_out_of_training_it_is_the_count_and_does_not_move() -> None:
    divisor = MovingDivisor(initial=100.0).eval()
    assert divisor(torch.tensor(20.0)).item() == 20.0
    assert divisor(torch.tensor(0.0)).item() == 1.0
    assert divisor.average.item() == 100.0


def test_over_ranks_it_is_the_average_of_all_their_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(count: Tensor) -> None:
        count += 50.0  # the other rank's

    two = SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_world_size=lambda: 2, all_reduce=all_reduce
    )
    monkeypatch.setattr(normalizer, "dist", two)
    divisor = MovingDivisor(initial=100.0)
    # Ranks sum 10 + 50: 0.9 * 100 + 0.1 * 60 = 96 for the two of them.
    assert divisor(torch.tensor(10.0)).item() == pytest.approx(48.0)
    assert divisor.average.item() == pytest.approx(96.0)


def test_a_loss_s_backward_survives_the_next_step() -> None:
    divisor, x = MovingDivisor(initial=100.0), torch.tensor(3.0, requires_grad=True)
    first = x / divisor(torch.tensor(20.0))
    divisor(torch.tensor(20.0))
    first.backward()
    assert x.grad.item() == pytest.approx(1 / 92)
