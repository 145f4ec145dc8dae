from collections.abc import Iterator

import pytest
import torch
from tiny_training import SIZE, TinyDetector
from torch import Tensor, nn

from detcore.config import OptimConfig
from detcore.engine.ema import ParameterAverage
from detcore.engine.optim import build_optimizer
from detcore.engine.passes import Losses, PlainPasses
from detcore.engine.precision import Precision
from detcore.engine.step import Training, train_step
from detcore.structures.batch import Batch, Targets


def make_batch(rows: int, *, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    boxes = torch.tensor([4.0, 4.0, 16.0, 16.0]).expand(rows, 1, 4)
    return Batch(
        images=torch.rand((rows, 3, SIZE, SIZE), generator=random),
        image_sizes=torch.full((rows, 2), SIZE),
        sample_ids=torch.arange(rows),
        real=torch.ones(rows, dtype=torch.bool),
        original_sizes=torch.full((rows, 2), SIZE),
        geometry=torch.eye(3).expand(rows, 3, 3),
        rng_key=torch.tensor([0, 0]),
        targets=Targets(
            boxes_xyxy=boxes,
            labels=torch.randint(2, (rows, 1), generator=random),
            valid=torch.ones((rows, 1), dtype=torch.bool),
        ),
    )


class Fixed:
    """Batches from a list."""

    wait_seconds = 0.25
    skipped = 1

    def __init__(self, *batches: Batch) -> None:
        self._batches = iter(batches)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return next(self._batches)


def halves(batch: Batch) -> list[Batch]:
    size = len(batch) // 2
    first, second = (lambda tensor, part=part: tensor[part * size : (part + 1) * size] for part in (0, 1))
    key = batch.rng_key
    return [Batch(**{**vars(batch.map(half)), "rng_key": key}) for half in (first, second)]


def training(
    model: nn.Module, *, accumulate: int = 1, precision: str = "fp32", clip_norm: float | None = None
) -> Training:
    chosen = Precision(name=precision, device=torch.device("cpu"))
    return Training(
        model=model,
        passes=PlainPasses(Losses(model), precision=chosen, accumulate=accumulate),
        optimizer=build_optimizer(model, optim=OptimConfig(lr=0.5)),
        average=ParameterAverage(model, decay=0.9),
        precision=chosen,
        lr_factor=lambda step: 0.1 * (step + 1),
        clip_norm=clip_norm,
        accumulate=accumulate,
    )


def without_norm() -> TinyDetector:
    """Without what makes two half batches differ from a whole one."""
    model = TinyDetector(dropout=0.0)
    model.backbone[1] = nn.Identity()
    return model.double()


def doubled(batch: Batch) -> Batch:
    return Batch(**{**vars(batch), "images": batch.images.double()})


def test_a_step_is_the_textbooks() -> None:
    model, expected = without_norm(), without_norm()
    batch = doubled(make_batch(4))
    record = train_step(training(model, clip_norm=1e-3), Fixed(batch), 2)

    losses = expected.losses(batch)
    sum(losses.values()).backward()
    parameters = list(expected.parameters())
    norm = torch.linalg.vector_norm(torch.cat([p.grad.reshape(-1) for p in parameters]))
    for parameter, trained in zip(parameters, model.parameters(), strict=True):
        decay = 1e-4 if parameter.ndim > 1 else 0.0
        step = 0.5 * 0.3 * (parameter.grad * 1e-3 / norm + decay * parameter)  # momentum is the gradient at first
        torch.testing.assert_close(trained, parameter - step, rtol=0, atol=1e-9)
    assert record.lr == pytest.approx(0.15)
    assert (record.wait_seconds, record.skipped) == (0.25, 1)
    torch.testing.assert_close(record.grad_norm, norm)
    torch.testing.assert_close(record.losses, {name: loss.detach() for name, loss in losses.items()})


def test_accumulated_halves_equal_the_whole() -> None:
    whole, parts = without_norm(), without_norm()
    batch = doubled(make_batch(4))
    expected = train_step(training(whole), Fixed(batch), 0)
    found = train_step(training(parts, accumulate=2), Fixed(*halves(batch)), 0)
    for first, second in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected.losses, found.losses)
    assert (found.wait_seconds, found.skipped) == (0.5, 2)
    assert torch.cat(list(found.sample_ids)).tolist() == [0, 1, 2, 3]


def test_an_overflow_under_fp16_skips_the_update() -> None:
    model = TinyDetector()
    found = training(model, precision="fp16")
    found.passes.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    before = [parameter.clone() for parameter in model.parameters()]
    train_step(found, Fixed(make_batch(4)), 0)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert found.passes.scaler.get_scale() == 2.0**23
    batches = Fixed(*[make_batch(4)] * 20)
    for step in range(1, 20):
        train_step(found, batches, step)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_nothing_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step reads no value of a tensor on the host: what would wait for a GPU."""

    def forbidden(self: Tensor, *args, **kwargs):
        raise AssertionError("a value was fetched")

    found = training(TinyDetector())
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(Tensor, name, forbidden)
    train_step(found, Fixed(make_batch(2)), 0)
