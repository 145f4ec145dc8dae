"""Renames the tensors of a checkpoint, in both directions."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Reshape = Callable[[Tensor], Tensor]


def unchanged(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Rule:
    """How tensors whose names begin alike are called here and there.

    Attributes:
        theirs, ours: beginnings of names; `{n}` in both stands for a number.
        shift: our number minus theirs.
        forward, backward: their tensor to ours, and ours to theirs.
        initial: the value of `ours`, a whole name, where their checkpoints lack what it is for; `theirs` is then empty.
    """

    theirs: str
    ours: str
    shift: int = 0
    forward: Reshape = unchanged
    backward: Reshape = unchanged
    initial: float | None = None


def to_ours(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """Their tensors under our names, by the first rule that fits each; and the names that no rule fits."""
    shared = [(r.theirs, r.ours, r.shift, r.forward) for r in rules if r.initial is None]
    renamed, unknown = _renamed(state, shared)
    return renamed | {r.ours: torch.tensor(r.initial) for r in rules if r.initial is not None}, unknown


def from_ours(state: Mapping[str, Tensor], rules: Sequence[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """Our tensors under their names, by the first rule that fits each; and the names that no rule fits."""
    ours_alone = {r.ours for r in rules if r.initial is not None}
    shared = [(r.ours, r.theirs, -r.shift, r.backward) for r in rules if r.initial is None]
    return _renamed({name: tensor for name, tensor in state.items() if name not in ours_alone}, shared)


def _renamed(
    state: Mapping[str, Tensor], directed: Sequence[tuple[str, str, int, Reshape]]
) -> tuple[dict[str, Tensor], list[str]]:
    patterns = [
        (re.compile(re.escape(source).replace(r"\{n\}", r"(\d+)")), target, shift, reshape)
        for source, target, shift, reshape in directed
    ]
    renamed: dict[str, Tensor] = {}
    unknown = []
    for name, tensor in state.items():
        for pattern, target, shift, reshape in patterns:
            found = pattern.match(name)
            if found:
                start = target.replace("{n}", str(int(found[1]) + shift)) if found.groups() else target
                renamed[start + name[found.end() :]] = reshape(tensor).contiguous()
                break
        else:
            unknown.append(name)
    return renamed, unknown


def load(model: torch.nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Loads all of `state` into all of `model`.

    Raises:
        ValueError: naming the tensors that are missing, too many, of another shape, or no weights: not finite, or
            integers for what is none.
    """
    wanted = model.state_dict()
    faults = [f"{name} is missing" for name in wanted if name not in state]
    faults += [f"{name} has no place in the model" for name in state if name not in wanted]
    faults += [
        f"{name} is {tuple(state[name].shape)}, the model's {tuple(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in state and state[name].shape != tensor.shape
    ]
    for name, tensor in wanted.items():
        if name in state and tensor.is_floating_point():
            if not state[name].is_floating_point():
                faults.append(f"{name} is {state[name].dtype}, the model's {tensor.dtype}")
            elif not state[name].isfinite().all():
                faults.append(f"{name} has numbers that are not finite")
    if faults:
        raise ValueError(f"{source}: {len(faults)} tensors do not fit the model: {'; '.join(faults[:8])}")
    model.load_state_dict(dict(state))
