"""What holds for a detector of every family."""

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass

import pytest
import torch
from small_detectors import NUM_CLASSES, SMALL
from torch import Tensor, nn

from detcore.models import build_model
from detcore.structures.batch import Batch


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(SMALL[name], num_classes=SMALL[name].num_classes or NUM_CLASSES)


@pytest.fixture(params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_losses_are_finite_and_reach_every_parameter(name: str, make_batch: Callable[..., Batch]) -> None:
    model = build(name)
    losses = model.losses(make_batch())
    assert all(loss.isfinite() and loss.dim() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    without = [key for key, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    assert not without


def test_an_image_is_seen_alike_in_any_company(
    name: str, make_batch: Callable[..., Batch], rows_of: Callable[[Batch, list[int]], Batch]
) -> None:
    model, batch = build(name).eval(), make_batch(images=3)
    with torch.inference_mode():
        together, alone = model.detect(batch), model.detect(rows_of(batch, [1]))
    assert together.valid.any() or together.semantic is not None
    for field in fields(together):
        whole, one = getattr(together, field.name), getattr(alone, field.name)
        assert (whole is None) == (one is None)
        if isinstance(whole, Tensor):
            torch.testing.assert_close(whole[1], one[0], atol=2e-3, rtol=1e-3)


def test_the_dense_part_compiles_as_one_graph(name: str, make_batch: Callable[..., Batch]) -> None:
    model, images = build(name).eval(), make_batch().images
    torch.compiler.reset()
    compiled = torch.compile(model.dense, fullgraph=True, backend="eager")
    with torch.no_grad():
        for ours, theirs in zip(leaves(compiled(images)), leaves(model.dense(images)), strict=True):
            torch.testing.assert_close(ours, theirs)


def leaves(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in leaves(item)]
    return leaves([getattr(value, field.name) for field in fields(value)]) if is_dataclass(value) else []


@pytest.mark.gpu
def test_a_training_step_never_waits_for_the_device(name: str, make_batch: Callable[..., Batch]) -> None:
    model, batch = build(name).cuda(), make_batch().to("cuda")
    for mode in ("default", "error"):  # what is made once, such as anchors, is made in the first round
        torch.cuda.set_sync_debug_mode(mode)
        try:
            sum(model.losses(batch).values()).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_the_gpu_computes_the_cpus_losses(name: str, make_batch: Callable[..., Batch]) -> None:
    batch = make_batch()
    model = build(name).double()
    expected = copy.deepcopy(model).losses(batch.map(in_double))  # a loss may leave a trace in a buffer
    found = model.cuda().losses(batch.map(in_double).to("cuda"))
    for key, value in expected.items():
        torch.testing.assert_close(found[key].cpu(), value, rtol=1e-4, atol=1e-6, msg=key)


def in_double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor
