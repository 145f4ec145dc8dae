"""Norms with fixed statistics as what they are when nothing is trained: constants."""

import copy

import torch
from torch import Tensor, nn

from detcore.models.norm import ConvNorm, FrozenBatchNorm


class _Affine(nn.Module):
    """x * scale + shift, in the order in which ONNX Runtime folds it into the convolution before."""

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: FrozenBatchNorm) -> None:
        super().__init__()
        scale, shift = norm.scale_and_shift()
        self.register_buffer("scale", scale.view(-1, 1, 1))
        self.register_buffer("shift", shift.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


@torch.no_grad()
def folded(model: nn.Module) -> nn.Module:
    """A copy whose frozen norms lie in the convolutions that carry them, or are a product and a sum.

    Each is half a dozen operators less to be traced and translated, which is most of the time that an export takes.
    """
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        if isinstance(module, ConvNorm) and isinstance(module.norm, FrozenBatchNorm):
            scale, shift = module.norm.scale_and_shift()
            module.weight = nn.Parameter(module.weight * scale.view(-1, 1, 1, 1))
            module.bias = nn.Parameter(shift)
            module.norm = None
    _replace(model)
    return model


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, FrozenBatchNorm):
            setattr(module, name, _Affine(child))
        else:
            _replace(child)
