"""Twenty steps of every family against losses on record: a change that was to change nothing has changed nothing.

`pytest tests/unit/models/test_golden_losses.py --update-golden` records them anew.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_detectors import NUM_CLASSES, SMALL

from detcore.models import build_model
from detcore.structures.batch import Batch

STEPS = 20


@pytest.mark.parametrize("name", SMALL)
def test_losses_are_those_on_record(
    name: str, make_batch: Callable[..., Batch], repository: Path, request: pytest.FixtureRequest
) -> None:
    found = losses_of_training(name, make_batch())
    file = repository / "tests" / "golden" / f"{name}.json"
    if request.config.getoption("--update-golden"):
        file.write_text(json.dumps(found, indent=1) + "\n")
    recorded = json.loads(file.read_text())
    assert found.keys() == recorded.keys()
    for loss, values in recorded.items():
        # In float64 another machine's order of summation shows far behind the fifth digit.
        assert found[loss] == pytest.approx(values, rel=1e-5, abs=1e-9), loss


def losses_of_training(name: str, batch: Batch) -> dict[str, list[float]]:
    """Loss name -> its value in each step, in float64, from seed 0."""
    torch.manual_seed(0)
    model = build_model(SMALL[name], num_classes=SMALL[name].num_classes or NUM_CLASSES).double()
    batch = batch.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    # A small step: with a large one the last bit, which threads and machines sum differently, decides a draw soon.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.00005, momentum=0.9)
    history: dict[str, list[float]] = {}
    for step in range(STEPS):
        losses = model.losses(replace(batch, rng_key=torch.tensor([7, step])))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        for key, value in losses.items():
            history.setdefault(key, []).append(value.item())
    return history
