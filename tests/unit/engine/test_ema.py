import pytest
import torch
from torch import nn

from detcore.engine.ema import ParameterAverage


def test_average_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(0.0)
    average = ParameterAverage(model, decay=0.15)
    for step, value in enumerate([1.0, 2.0]):
        model.weight.data.fill_(value)
        average.update(step)
    with average.applied():
        # Decays min(0.15, 1/10) and min(0.15, 2/11): 0.1 * 0 + 0.9 * 1 = 0.9, then 0.15 * 0.9 + 0.85 * 2.
        assert model.weight.item() == pytest.approx(1.835)
    assert model.weight.item() == 2.0


def test_an_error_inside_leaves_the_model_as_it_was() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    average = ParameterAverage(model, decay=0.5)
    model.weight.data.add_(1.0)
    with pytest.raises(RuntimeError), average.applied():
        assert torch.equal(model.weight, before)
        raise RuntimeError
    assert torch.equal(model.weight, before + 1.0)


def test_saved_and_loaded() -> None:
    model, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    average, loaded = ParameterAverage(model, decay=0.5), ParameterAverage(other, decay=0.5)
    model.weight.data.fill_(3.0)
    average.update(0)
    with average.applied():
        loaded.load({name: value.clone() for name, value in model.state_dict().items()})
    with loaded.applied():
        assert torch.equal(other.weight, torch.full((2,), 0.1 * 1.0 + 0.9 * 3.0))
