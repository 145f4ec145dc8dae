from dataclasses import replace

import numpy as np
import pytest
import torch

from detcore.engine.meter import Meter, NonFiniteLossError, StepRecord


def record(step: int, *, box: float = 1.0, label: float = 2.0, norm: float = 3.0, samples=((0, 1),)) -> StepRecord:
    return StepRecord(
        step=step,
        losses={"label": torch.tensor(label), "box": torch.tensor(box)},
        grad_norm=torch.tensor(norm),
        sample_ids=[torch.tensor(ids) for ids in samples],
        lr=0.5 / (step + 1),
        seconds=2.0,
        wait_seconds=0.5,
    )


def meter(*, skips_overflow: bool = False) -> Meter:
    return Meter(image_ids=np.array([100, 101, 102, 103]), images_per_step=8, skips_overflow=skips_overflow)


def test_means_over_the_steps_since_the_last_flush() -> None:
    found = meter()
    found.add(record(0, box=1.0))
    found.check()
    found.add(record(1, box=2.0))
    metrics = found.flush()
    # 2 steps of 8 images in 2 seconds each, and the moment that fetching takes.
    assert metrics.pop("images_per_second") == pytest.approx(4.0, rel=0.1)
    assert metrics == {"loss": 3.5, "box": 1.5, "label": 2.0, "grad_norm": 3.0, "lr": 0.25, "data_wait_seconds": 0.5}
    found.add(record(2, box=7.0))
    assert found.flush()["box"] == 7.0


def test_what_was_left_out_is_counted() -> None:
    found = meter()
    found.add(record(0))
    assert "skipped_samples" not in found.flush()
    for step, skipped in ((1, 2), (2, 0), (3, 1)):
        found.add(replace(record(step), skipped=skipped))
    assert found.flush()["skipped_samples"] == 3
    found.add(replace(record(4), skipped=4))
    found.check()
    resumed = meter()
    resumed.load_state_dict(found.state_dict())
    assert resumed.flush()["skipped_samples"] == 4
    assert resumed.skipped == 7


def test_the_window_survives_a_checkpoint() -> None:
    first, second = meter(), meter()
    first.add(record(0, box=0.1))
    first.check()
    second.load_state_dict(first.state_dict())
    for one in (first, second):
        one.add(record(1, box=0.2))
    (expected, found) = (one.flush() for one in (first, second))
    assert found["box"] == expected["box"] == pytest.approx(0.15)
    assert {**found, "images_per_second": 0.0} == {**expected, "images_per_second": 0.0, "data_wait_seconds": 0.5}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"box": float("nan")}, r"step 1: box not finite, on images \[102, 103\]"),
        ({"label": float("inf")}, r"step 1: label not finite, on images \[102, 103\]"),
        ({"norm": float("nan")}, r"step 1: the gradient is not finite, the losses are, on images \[102, 103\]"),
    ],
)
def test_the_first_step_that_is_not_finite_is_named(bad: dict[str, float], message: str) -> None:
    found = meter()
    found.add(record(0))
    found.add(record(1, **bad, samples=((2,), (3, -1))))  # two rounds; -1 is an empty row
    found.add(record(2, box=float("nan")))
    with pytest.raises(NonFiniteLossError, match=message):
        found.check()


def test_fp16_overflow_is_no_error_and_not_in_the_mean() -> None:
    found = meter(skips_overflow=True)
    found.add(record(0, norm=float("inf")))
    found.add(record(1, norm=2.0))
    assert found.flush()["grad_norm"] == 2.0
    found.add(record(2, norm=float("inf")))
    assert found.flush()["grad_norm"] == 0.0
    found.add(record(3, box=float("nan")))
    with pytest.raises(NonFiniteLossError, match="step 3"):
        found.check()


def test_losses_may_not_come_and_go() -> None:
    found = meter()
    found.add(record(0))
    other = StepRecord(**{**record(1).__dict__, "losses": {"box": torch.tensor(1.0)}})
    with pytest.raises(ValueError, match=r"step 1: the model's losses are \['box'\], before they were"):
        found.add(other)
