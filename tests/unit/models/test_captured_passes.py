"""CUDA graphs of the passes against the passes themselves."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from small_detectors import NUM_CLASSES, SMALL
from torch import Tensor, nn

from detcore.engine.captured import CapturedPasses
from detcore.engine.passes import Losses, Passes, PlainPasses, flat_gradients
from detcore.engine.precision import Precision
from detcore.models import build_model
from detcore.structures.batch import Batch

pytestmark = pytest.mark.gpu
SHAPES = [(128, 192), (128, 128)]


def test_flat_gradients_are_parts_of_one_tensor() -> None:
    conv = nn.Conv2d(3, 4, 3, device="cuda").to(memory_format=torch.channels_last)
    flat = flat_gradients(list(conv.parameters()))
    conv(torch.ones(1, 3, 8, 8, device="cuda")).sum().backward()
    assert flat.count_nonzero() == flat.numel() == sum(p.numel() for p in conv.parameters())
    assert conv.weight.grad is not None and conv.weight.grad.untyped_storage().data_ptr() == flat.data_ptr()


@pytest.fixture(autouse=True)
def whole_float32() -> Iterator[None]:
    """In TF32 the order of an atomic sum shows in the third digit."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = build_model(SMALL[name], num_classes=SMALL[name].num_classes or NUM_CLASSES)
    return model.cuda().to(memory_format=torch.channels_last).train()


def of_shape(batch: Batch, shape: tuple[int, int]) -> Batch:
    images = torch.randn((len(batch), 3, *shape), generator=torch.Generator().manual_seed(shape[1]))
    sizes = batch.image_sizes.clamp(max=min(shape))
    targets = batch.targets
    if targets is not None and targets.semantic is not None:
        random = torch.Generator().manual_seed(4)
        targets = replace(targets, semantic=torch.randint(4, (len(batch), *shape), generator=random).to(torch.uint8))
    images = images.to(memory_format=torch.channels_last)
    return replace(batch, images=images, image_sizes=sizes, targets=targets).to("cuda")


@pytest.mark.parametrize("name", SMALL)
def test_replays_give_the_losses_gradients_and_buffers_of_plain_passes(
    name: str, make_batch: Callable[..., Batch]
) -> None:
    precision = Precision(name="fp32", device=torch.device("cuda"))
    plain_model, model = build(name), build(name)
    model.load_state_dict(plain_model.state_dict())
    plain = PlainPasses(Losses(plain_model), precision=precision, accumulate=1)
    lines: list[str] = []
    captured = CapturedPasses(
        PlainPasses(Losses(model), precision=precision, accumulate=1),
        model,
        shapes=SHAPES[:1],
        half_exchange=False,
        say=lines.append,
    )
    for step, shape in enumerate([*SHAPES, SHAPES[0]]):  # the second is captured when it comes
        batch = replace(of_shape(make_batch(), shape), rng_key=torch.tensor([7, step], device="cuda"))
        expected, found = {}, {}
        for passes, losses in ((plain, expected), (captured, found)):
            passes.clear()
            losses.update(passes(batch, last=True))
        assert expected.keys() == found.keys()
        for loss, value in expected.items():
            torch.testing.assert_close(found[loss].float(), value.float(), rtol=1e-4, atol=1e-5)
        assert same(plain_model, model, lambda parameter: parameter.grad)
    for ours, theirs in zip(model.buffers(), plain_model.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert len(lines) == 1 and "captured the training step for 1 shapes" in lines[0]


def same(first: nn.Module, second: nn.Module, of: Callable[[nn.Parameter], Tensor | None]) -> bool:
    """Whether the gradients are, up to the order of atomic sums."""
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        left, right = of(one), of(other)
        assert (left is None) == (right is None), name
        if left is not None and right is not None:
            assert (left - right).norm() <= 1e-3 * left.norm() + 1e-6, name
    return True


def test_passes_add_up(make_batch: Callable[..., Batch]) -> None:
    precision = Precision(name="fp32", device=torch.device("cuda"))
    model = build("mask_rcnn")
    passes = CapturedPasses(
        PlainPasses(Losses(model), precision=precision, accumulate=2),
        model,
        shapes=[],
        half_exchange=False,
        say=lambda _: None,
    )
    batch = of_shape(make_batch(), SHAPES[0])
    first = passes(batch, last=False)
    single = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    second = passes(batch, last=True)
    for loss in first:
        torch.testing.assert_close(first[loss], second[loss], rtol=1e-4, atol=1e-6)
    doubled = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for one, two in zip(single, doubled, strict=True):
        assert (2 * one - two).norm() <= 1e-3 * two.norm() + 1e-6


def test_fifty_steps_of_the_fast_path_are_the_plain_paths_to_bf16s_rounding(make_batch: Callable[..., Batch]) -> None:
    """The losses differ from plain bf16's by no more than these differ from float32's."""
    runs = {}
    for name, graphs in (("fp32", False), ("bf16", False), ("bf16", True)):
        precision = Precision(name=name, device=torch.device("cuda"))
        model = build("mask_rcnn")
        passes: Passes = PlainPasses(Losses(model), precision=precision, accumulate=1)
        if graphs:
            assert isinstance(passes, PlainPasses)
            passes = CapturedPasses(passes, model, shapes=SHAPES, half_exchange=False, say=lambda _: None)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        rows = []
        for step in range(50):
            batch = of_shape(make_batch(), SHAPES[step % 2])
            batch = replace(batch, images=batch.images.to(precision.image_dtype))
            passes.clear()
            losses = passes(replace(batch, rng_key=torch.tensor([7, step], device="cuda")), last=True)
            optimizer.step()
            rows.append(torch.stack([losses[loss].double() for loss in sorted(losses)]))
        runs[name, graphs] = torch.stack(rows)
    rounding = (runs["bf16", False] - runs["fp32", False]).abs().mean(dim=0)
    assert ((runs["bf16", True] - runs["bf16", False]).abs().mean(dim=0) <= rounding + 1e-3).all()
    assert (runs["bf16", True].sum(dim=1)[-2:] < runs["bf16", True].sum(dim=1)[:2]).all()
