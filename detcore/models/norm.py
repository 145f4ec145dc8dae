"""Normalisation: the frozen affine form of batch norm, and convolutions that carry their norm."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from detcore.models.initialization import for_relu, start
from detcore.ops.conv_act import added, conv2d_act
from detcore.ops.group_norm import group_norm_act

NORMS = ("none", "frozen_bn", "bn", "gn", "ln")


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics and fixed affine: a scale and a shift for each channel, none of it trained."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, *, num_channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(num_channels))
        self.register_buffer("bias", torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_var", torch.ones(num_channels))

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> "FrozenBatchNorm":
        """With the statistics and the affine that `norm` has now."""
        frozen = cls(num_channels=norm.num_features, eps=norm.eps)
        source = norm.state_dict()
        frozen.load_state_dict({name: source.get(name, value) for name, value in frozen.state_dict().items()})
        return frozen

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(C,), (C,): the norm is x * scale + shift."""
        scale = self.weight * torch.rsqrt(self.running_var + self.eps)
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = (part.to(x.dtype).view(1, -1, 1, 1) for part in self.scale_and_shift())
        return torch.addcmul(shift, x, scale)

    def extra_repr(self) -> str:
        return f"{self.weight.numel()}, eps={self.eps}"


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of every place of a map (B, C, H, W), as ConvNeXt's (arXiv:2201.03545)."""

    def __init__(self, *, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def group_norm(num_channels: int) -> nn.GroupNorm:
    """32 groups (arXiv:1803.08494), or the most that divide both 32 and the channels."""
    return nn.GroupNorm(math.gcd(32, num_channels), num_channels)


def make_norm(kind: str, num_channels: int) -> nn.Module | None:
    """One of NORMS; None for 'none'."""
    match kind:
        case "none":
            return None
        case "frozen_bn":
            return FrozenBatchNorm(num_channels=num_channels)
        case "bn":
            return nn.BatchNorm2d(num_channels)
        case "gn":
            return group_norm(num_channels)
        case "ln":
            return ChannelLayerNorm(num_channels=num_channels)
    raise ValueError(f"unknown norm {kind!r}; there are {', '.join(NORMS)}")


class ConvNorm(nn.Conv2d):
    """A convolution with padding to keep the size, its norm, and a ReLU. It has a bias only where there is no norm.

    A frozen norm is multiplied into the weights on the fly: it costs no pass over the activations. Nor do, where
    `conv2d_act` fuses them, the bias, the ReLU and a residual; `group_norm_act` takes the latter two in as well.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        norm: str = "none",
        relu: bool = False,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=norm == "none",
        )
        self.norm = make_norm(norm, out_channels)
        self.relu = relu
        start([self], for_relu)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The map, with `residual` (see `conv2d_act`) added before the ReLU."""
        if isinstance(self.norm, FrozenBatchNorm):
            scale, shift = self.norm.scale_and_shift()
            return self.convolved(x, self.weight * scale.view(-1, 1, 1, 1), shift, residual)
        if self.norm is None:
            assert self.bias is not None
            return self.convolved(x, self.weight, self.bias, residual)
        x = self._conv_forward(x, self.weight, None)
        if isinstance(self.norm, nn.GroupNorm):
            return group_norm_act(
                x,
                self.norm.weight,
                self.norm.bias,
                num_groups=self.norm.num_groups,
                eps=self.norm.eps,
                residual=residual,
                relu=self.relu,
            )
        return added(self.norm(x), residual, relu=self.relu)

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
        """By this weight and bias, with what follows."""
        return conv2d_act(
            x,
            weight,
            bias,
            stride=self.stride[0],
            padding=int(self.padding[0]),
            dilation=self.dilation[0],
            groups=self.groups,
            residual=residual,
            relu=self.relu,
        )


def conv_stack(widths: Sequence[int], *, norm: str) -> nn.Sequential:
    """3x3 convolutions with ReLU, from each width to the next."""
    return nn.Sequential(
        *(
            ConvNorm(in_channels=before, out_channels=after, kernel_size=3, norm=norm, relu=True)
            for before, after in pairwise(widths)
        )
    )


def freeze(module: nn.Module) -> nn.Module:
    """`module`, or what replaces it, with nothing in it trained and every batch norm in it fixed."""
    module = replace_batch_norm(module, FrozenBatchNorm.of)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    return module


def replace_batch_norm(module: nn.Module, make: Callable[[nn.BatchNorm2d], nn.Module]) -> nn.Module:
    """`module` with `make(norm)` for every batch norm in it; an activation that a norm carries stays after it."""
    if isinstance(module, nn.BatchNorm2d):
        replacement = make(module)
        # timm's norms hold the activation that follows.
        activation = getattr(module, "act", None)
        if activation is None or isinstance(activation, nn.Identity):
            return replacement
        return nn.Sequential(replacement, activation)
    for name, child in module.named_children():
        setattr(module, name, replace_batch_norm(child, make))
    return module
