"""What a comparison is, and inputs that several of them use."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """One comparison.

    Attributes:
        name: of the work.
        ours: runs it once.
        theirs: torchvision's operator, or the reference.
        bar: on the CPU theirs / ours, at least; on CUDA milliseconds, at most.
        moved: bytes that any implementation reads and writes, each input and each output once.
        flops: floating-point operations that any implementation makes.
        matrix: whether the operations are those of a matrix product, for the tensor cores.
        waits: whether the call waits for the device, so that the host's clock tells its time.
    """

    name: str
    ours: Call
    theirs: Call
    bar: float
    moved: float = 0.0
    flops: float = 0.0
    matrix: bool = False
    waits: bool = False


def boxes(count: int, extent: float, largest: float, device: str, *batch: int) -> Tensor:
    """(*batch, count, 4), their corners spread over `extent` pixels, with sides up to `largest`."""
    low = torch.rand((*batch, count, 2), device=device) * extent
    return torch.cat((low, low + torch.rand((*batch, count, 2), device=device) * largest + 1), dim=-1)


def with_backward(function: Callable[..., Tensor], *leaves: Tensor) -> Call:
    """Runs the function and its gradient with respect to all leaves."""
    inputs = [leaf.clone().requires_grad_() for leaf in leaves]
    grad = torch.rand_like(function(*inputs))

    def run() -> None:
        torch.autograd.grad(function(*inputs), inputs, grad)

    return run


def size_of(*tensors: Tensor) -> int:
    """Bytes of the tensors."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
