import pytest
import torch

from detcore.config import OptimConfig
from detcore.config.training import Cosine, MultiStep
from detcore.engine.schedule import lr_factor


def factors(total_steps: int, **arguments) -> list[float]:
    optim = OptimConfig(lr=1.0, **arguments)
    return [lr_factor(step, total_steps=total_steps, optim=optim) for step in range(total_steps)]


def test_warmup_by_hand() -> None:
    found = factors(10, warmup_steps=4, warmup_factor=0.2, schedule=MultiStep(milestones=()))
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, *[1.0] * 6])


def test_multistep_is_as_torchs() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[7, 9], gamma=0.1)
    expected = []
    for _ in range(10):
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    assert factors(10, schedule=MultiStep(milestones=(0.9, 0.7))) == pytest.approx(expected)


def test_cosine_is_as_torchs_and_ends_at_its_last_step() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8, eta_min=0.1)
    expected = []
    for _ in range(9):
        expected.append(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    found = factors(12, warmup_steps=3, schedule=Cosine(final_factor=0.1))
    assert found[3:] == pytest.approx(expected)
    assert found[-1] == pytest.approx(0.1)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_runs_shorter_than_the_warmup(steps: int) -> None:
    assert factors(steps, warmup_steps=3, warmup_factor=0.1, schedule=Cosine()) == pytest.approx(
        [0.1, 0.4, 0.7][:steps]
    )
