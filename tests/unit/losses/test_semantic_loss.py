"""The loss of pixels' classes against its definition, pixel by pixel."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from detcore.losses.semantic import semantic_loss
from detcore.structures.batch import Batch, Targets

CLASSES, HEIGHT, WIDTH = 4, 16, 24


def batch_of(semantic: Tensor | None, *, sizes: list[tuple[int, int]], real: list[bool]) -> Batch:
    images = len(real)
    empty = torch.zeros(images, 0)
    return Batch(
        images=torch.zeros(images, 3, HEIGHT, WIDTH),
        image_sizes=torch.tensor(sizes),
        sample_ids=torch.arange(images),
        real=torch.tensor(real),
        original_sizes=torch.tensor(sizes),
        geometry=torch.eye(3).repeat(images, 1, 1),
        rng_key=torch.tensor([0, 0]),
        targets=Targets(torch.zeros(images, 0, 4), empty.long(), empty.bool(), semantic=semantic),
    )


@pytest.fixture
def targets() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    semantic = torch.randint(CLASSES, (3, HEIGHT, WIDTH), generator=generator)
    semantic[:, :3] = 255
    semantic[1, :, 20:] = 255
    return semantic.to(torch.uint8)


def entropies(logits: Tensor, targets: Tensor) -> list[list[float]]:
    """Of each image's pixels that count: -log softmax, as in any textbook."""
    large = torch.nn.functional.interpolate(logits, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
    log_p = large - large.exp().sum(dim=1, keepdim=True).log()
    return [
        [
            -log_p[image, int(targets[image, y, x]), y, x].item()
            for y in range(HEIGHT)
            for x in range(WIDTH)
            if targets[image, y, x] != 255
        ]
        for image in range(len(targets))
    ]


def test_mean_over_the_pixels_that_count(targets: Tensor) -> None:
    logits = torch.randn(3, CLASSES, HEIGHT // 4, WIDTH // 4, dtype=torch.float64)
    batch = batch_of(targets, sizes=[(HEIGHT, WIDTH)] * 3, real=[True, True, False])
    loss = semantic_loss(logits=logits, batch=batch)["loss_sem_seg"]
    first, second, _ = entropies(logits, targets)
    assert loss.item() == pytest.approx(sum(first + second) / len(first + second))


def test_hard_pixels_are_those_of_each_image_and_padding_is_none(targets: Tensor) -> None:
    logits = torch.randn(3, CLASSES, HEIGHT // 4, WIDTH // 4, dtype=torch.float64)
    sizes = [(HEIGHT, WIDTH), (HEIGHT, 20), (HEIGHT, WIDTH)]
    batch = batch_of(targets, sizes=sizes, real=[True, True, False])
    loss = semantic_loss(logits=logits, batch=batch, hardest=0.2)["loss_sem_seg"]
    counts = [int(0.2 * HEIGHT * WIDTH), int(0.2 * HEIGHT * 20)]
    taken = [
        value
        for image, count in zip(entropies(logits, targets)[:2], counts, strict=True)
        for value in sorted(image)[-count:]
    ]
    assert loss.item() == pytest.approx(sum(taken) / sum(counts))


def test_all_ignored_is_zero_with_a_gradient(targets: Tensor) -> None:
    batch = batch_of(torch.full_like(targets, 255), sizes=[(HEIGHT, WIDTH)] * 3, real=[True] * 3)
    for hardest in (1.0, 0.2):
        logits = torch.randn(3, CLASSES, HEIGHT // 4, WIDTH // 4, requires_grad=True)
        loss = semantic_loss(logits=logits, batch=batch, hardest=hardest)["loss_sem_seg"]
        loss.backward()
        assert loss.item() == 0 and not logits.grad.any()


def test_half_precision_logits_give_a_float32_loss(targets: Tensor) -> None:
    batch = batch_of(targets, sizes=[(HEIGHT, WIDTH)] * 3, real=[True] * 3)
    logits = torch.randn(3, CLASSES, HEIGHT // 4, WIDTH // 4).bfloat16()
    found = semantic_loss(logits=logits, batch=batch)["loss_sem_seg"]
    assert torch.equal(found, semantic_loss(logits=logits.float(), batch=batch)["loss_sem_seg"])


def test_targets_are_needed() -> None:
    batch = batch_of(None, sizes=[(HEIGHT, WIDTH)], real=[True])
    for missing in (batch, replace(batch, targets=None)):
        with pytest.raises(ValueError, match="no semantic targets"):
            semantic_loss(logits=torch.zeros(1, CLASSES, 4, 6), batch=missing)
