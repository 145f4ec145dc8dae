"""Losses of single predictions and of matched boxes."""

from collections.abc import Callable, Iterator

import torch
import torchvision
from torch import Tensor

from detcore import ops
from op_cases.case import Case, boxes, size_of, with_backward

BOX_LOSSES = {
    "giou_loss": (ops.giou_loss, torchvision.ops.generalized_box_iou_loss),
    "diou_loss": (ops.diou_loss, torchvision.ops.distance_box_iou_loss),
    "ciou_loss": (ops.ciou_loss, torchvision.ops.complete_box_iou_loss),
}
H100_BYTES_PER_MS = 3e9
"""By the datasheet. The bars on CUDA are what a kernel that only moves memory takes, and half of that again."""


def bar(device: str, moved: float) -> float:
    return 1.5 * moved / H100_BYTES_PER_MS if device == "cuda" else 1.0


def loss_cases(device: str) -> Iterator[Case]:
    yield from focal_cases(device)
    yield from box_cases(device)


def focal_cases(device: str) -> Iterator[Case]:
    batch = 16 if device == "cuda" else 2
    logits = torch.randn((batch, 20_000, 80), device=device)
    labels = (torch.rand_like(logits) < 0.01).float()

    def focal(x: Tensor) -> Tensor:
        return ops.sigmoid_focal_loss(x, labels)

    def focal_theirs(x: Tensor) -> Tensor:
        return torchvision.ops.sigmoid_focal_loss(x, labels)

    for dtype in (torch.float32, torch.bfloat16):
        own = logits.to(dtype)
        name = f"sigmoid_focal_loss, {logits.numel()} logits, {str(dtype)[6:]}"
        forward = size_of(own, labels, logits)
        # The gradient of the loss and both inputs in, that of the logits out.
        both = forward + size_of(logits, own, labels, own)
        theirs = with_backward(focal_theirs, logits)
        yield Case(
            f"{name}, fwd", lambda x=own: focal(x), lambda: focal_theirs(logits), bar(device, forward), moved=forward
        )
        yield Case(f"{name}, fwd+bwd", with_backward(focal, own), theirs, bar(device, both), moved=both)


def box_cases(device: str) -> Iterator[Case]:
    count = 2**22 if device == "cuda" else 100_000
    first, second = (boxes(count, 800, 300, device) for _ in range(2))
    losses = first[:, 0].contiguous()
    forward = size_of(first, second, losses)
    for name, (ours, theirs) in BOX_LOSSES.items():

        def of_first(function: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
            return lambda x: function(x, second)

        title = f"{name}, {count} pairs, float32"
        yield Case(
            f"{title}, fwd",
            lambda f=ours: f(first, second),
            lambda f=theirs: f(first, second),
            bar(device, forward),
            moved=forward,
        )
        # As in training: the targets have no gradient.
        both = forward + size_of(losses, first, second, first)
        yield Case(
            f"{title}, fwd+bwd",
            with_backward(of_first(ours), first),
            with_backward(of_first(theirs), first),
            bar(device, both),
            moved=both,
        )
