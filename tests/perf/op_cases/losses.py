"""Losses of single predictions."""

from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor

from detcore import ops
from detcore.ops.losses import sigmoid_focal_loss_reference
from op_cases.case import Case, with_backward


def loss_cases(device: str) -> Iterator[Case]:
    batch = 16 if device == "cuda" else 2
    logits = torch.randn((batch, 20_000, 80), device=device)
    labels = (torch.rand_like(logits) < 0.01).float()

    def focal(x: Tensor) -> Tensor:
        return ops.sigmoid_focal_loss(x, labels)

    def focal_theirs(x: Tensor) -> Tensor:
        return torchvision.ops.sigmoid_focal_loss(x, labels)

    name = f"sigmoid_focal_loss, {logits.numel()} logits"
    yield Case(f"{name}, fwd", lambda: focal(logits), lambda: focal_theirs(logits), 1.0)
    yield Case(f"{name}, fwd+bwd", with_backward(focal, logits), with_backward(focal_theirs, logits), 1.0)
    yield Case(
        f"{name}, fwd, against the reference",
        lambda: focal(logits),
        lambda: sigmoid_focal_loss_reference(logits, labels, 0.25, 2.0),
        1.0,
    )
