"""Parameters into groups, and the optimiser over them."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from detcore.config.training import OptimConfig

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def parameter_groups(model: nn.Module, *, optim: OptimConfig) -> list[dict[str, Any]]:
    """The trained parameters by what they have in common: weight decay and learning rate.

    Norms and biases have weight decays of their own; other parameters of at most one dimension, and those that a module
    names in `undecayed`, have none. Those below `backbone.` have their learning rate times `backbone_lr_factor`, and
    times `layer_decay` for each layer above them (arXiv:2106.08254, section 3.2), which the backbone's `layers_above`
    counts. `base_lr` is what the schedule multiplies.

    Raises:
        ValueError: if the model has no parameter to train, or a backbone that does not count its layers.
    """
    grouped: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    seen: set[nn.Parameter] = set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter in seen or not parameter.requires_grad:
                continue
            seen.add(parameter)
            lr = optim.lr * _lr_factor(model, f"{prefix}.{name}", optim)
            grouped[lr, _weight_decay(module, name, parameter, optim)].append(parameter)
    if not grouped:
        raise ValueError(f"{type(model).__name__} has no parameter to train: all are frozen, or there is none")
    return [
        {"params": parameters, "lr": lr, "base_lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in grouped.items()
    ]


def _lr_factor(model: nn.Module, name: str, optim: OptimConfig) -> float:
    """Of the parameter called `name` in the model."""
    if not name.startswith("backbone."):
        return 1.0
    if optim.layer_decay == 1.0:
        return optim.backbone_lr_factor
    backbone: Any = model.backbone
    if not hasattr(backbone, "layers_above"):
        raise ValueError(f"optim.layer_decay: {type(backbone).__name__} has no layers_above(name); leave it out")
    factor: float = optim.layer_decay ** backbone.layers_above(name.removeprefix("backbone."))
    return optim.backbone_lr_factor * factor


def _weight_decay(module: nn.Module, name: str, parameter: nn.Parameter, optim: OptimConfig) -> float:
    """Of the parameter that `module` calls `name`."""
    if isinstance(module, _NORMS):
        return optim.weight_decay_norm
    if name in getattr(module, "undecayed", ()):
        return 0.0
    if name == "bias":
        return optim.weight_decay_bias
    return optim.weight_decay if parameter.ndim > 1 else 0.0


def build_optimizer(model: nn.Module, *, optim: OptimConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over `parameter_groups`, fused: under fp16 only the fused ones skip a step without a host sync."""
    groups = parameter_groups(model, optim=optim)
    if optim.type == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=True)
    # torch refuses Nesterov without momentum with a message of its own, as clear as ours would be.
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=True)


def load_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Takes up what an optimiser has gathered. Its settings stay as they are: those in `state` may be of a training
    that this one goes on from with others.

    Raises:
        ValueError: if the parameters are in other groups there.
    """
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def clip_gradients(parameters: Iterable[nn.Parameter], *, clip_norm: float | None) -> Tensor:
    """Scales all gradients so that their global L2 norm is at most `clip_norm`; gives the norm before, 0-dim."""
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
    return norm
