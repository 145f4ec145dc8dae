"""What the ranks of a run tell each other. Without torch.distributed there is one rank, and each of these is free."""

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def mean_over_ranks(values: Tensor) -> Tensor:
    """The elementwise mean; on every rank. A NaN on one rank is a NaN on all."""
    if world_size() == 1:
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / world_size()


def largest_over_ranks(value: int) -> int:
    if world_size() == 1:
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    largest = torch.tensor(value, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return int(largest)


def gather(value: T) -> list[T]:
    """Every rank's value, in rank order; on every rank."""
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def host_group() -> dist.ProcessGroup | None:
    """A group of all ranks for a thread of its own: what it exchanges stays on hosts and crosses nothing of others."""
    if world_size() == 1:
        return None
    group = dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup), "this rank is one of all"
    return group


def gather_at_rank_zero(value: T, group: dist.ProcessGroup | None) -> list[T] | None:
    """Every rank's value, in rank order, on rank 0; None elsewhere."""
    if group is None:
        return [value]
    values: list[T | None] | None = [None] * world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values, dst=0, group=group)
    return values  # type: ignore[return-value]


def from_rank_zero(action: Callable[[], T]) -> T:
    """Runs `action` on rank 0 and gives every rank its result.

    Raises:
        Exception: rank 0's own there; a RuntimeError with its words elsewhere, so that no rank waits for a dead one.
    """
    if world_size() == 1:
        return action()
    outcome: list[T | str | None] = [None, None]
    failure: Exception | None = None
    if dist.get_rank() == 0:
        try:
            outcome[0] = action()
        except Exception as error:  # told to all ranks first, then raised
            failure, outcome[1] = error, f"{type(error).__name__}: {error}"
    dist.broadcast_object_list(outcome, src=0)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise RuntimeError(f"rank 0 failed: {outcome[1]}")
    return outcome[0]  # type: ignore[return-value]


def copy_buffers_from_rank_zero(model: nn.Module) -> None:
    """Gives all ranks the running statistics of rank 0, so that they evaluate one and the same model."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
