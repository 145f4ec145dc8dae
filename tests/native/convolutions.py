"""Deformable convolutions of many kinds, and how their results are compared."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from detcore.ops import deform_conv2d
from detcore.ops.deform_conv import deform_conv2d_reference

Operands = list[Tensor | None]


@dataclass(frozen=True)
class Setting:
    """One convolution; size: of the input's maps."""

    channels: int = 8
    out_channels: int = 6
    kernel: tuple[int, int] = (3, 3)
    groups: int = 1
    offset_groups: int = 1
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 1
    dilation: int | tuple[int, int] = 1
    size: tuple[int, int] = (9, 11)
    masked: bool = True

    def operands(self, generator: torch.Generator, dtype: torch.dtype = torch.float32, batch: int = 3) -> Operands:
        """Input, offset, weight, bias, mask; the offsets in fp32 or better, some of them nowhere."""

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=accurate)

        accurate = torch.promote_types(dtype, torch.float32)
        (kh, kw), (h, w) = self.kernel, self.size
        weight = normal(self.out_channels, self.channels // self.groups, kh, kw) / (self.channels * kh * kw) ** 0.5
        plain = torch.empty(1, 1, h, w)
        out = torch.nn.functional.conv2d(
            plain, torch.empty(1, 1, kh, kw), None, self.stride, self.padding, self.dilation
        ).shape[2:]
        taps = self.offset_groups * kh * kw
        offset = normal(batch, 2 * taps, *out) * 2
        if batch > 1 and out[0] > 1:
            offset[1, 0, 1, 1], offset[1, 1, 0, 1], offset[0, -1, 1, 0] = torch.nan, torch.inf, -torch.inf
            offset[0, -2, 0, 0] = 1e30
        mask = torch.rand((batch, taps, *out), generator=generator, dtype=accurate).to(dtype) if self.masked else None
        return [
            normal(batch, self.channels, h, w).to(dtype),
            offset,
            weight.to(dtype),
            normal(self.out_channels).to(dtype),
            mask,
        ]

    def ours(
        self, x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return deform_conv2d(x, offset, weight, bias, self.stride, self.padding, self.dilation, mask)

    def theirs(
        self, x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        return deform_conv2d_reference(x, offset, weight, bias, self.stride, self.padding, self.dilation, mask)


PLAIN = Setting()
SETTINGS = {
    "plain": PLAIN,
    "no mask": Setting(masked=False),
    "wide": Setting(channels=80, out_channels=16),  # packs and vectors, and a rest
    "very wide": Setting(channels=272, out_channels=4, size=(5, 6)),  # more than a warp takes at a time
    "odd": Setting(channels=7, out_channels=3),
    "1x1": Setting(kernel=(1, 1), padding=0),
    "strided": Setting(stride=(2, 3), padding=(0, 2), dilation=(2, 1), kernel=(2, 3)),
    "groups": Setting(channels=32, groups=2, out_channels=4),
    "offset groups": Setting(channels=32, offset_groups=4),
    "fewer groups than offset groups": Setting(channels=64, groups=2, offset_groups=4, out_channels=4),
    "more groups than offset groups": Setting(channels=24, groups=6, offset_groups=2, out_channels=12),
    "groups across offset groups": Setting(channels=12, groups=3, offset_groups=2, out_channels=3),
    "one pixel": Setting(size=(1, 1)),
}


def to(operands: Operands, *where: object) -> Operands:
    return [None if one is None else one.to(*where) for one in operands]  # type: ignore[call-overload]


def with_gradients(function: Callable[..., Tensor], operands: Operands, grad: Tensor) -> list[Tensor]:
    leaves = [None if one is None else one.detach().requires_grad_() for one in operands]
    out = function(*leaves)
    return [out.detach(), *torch.autograd.grad(out, [leaf for leaf in leaves if leaf is not None], grad.to(out))]


def assert_close(got: list[Tensor], want: list[Tensor], tolerance: float) -> None:
    for one, other in zip(got, want, strict=True):
        scale = max(other.abs().max().item(), 1.0)
        torch.testing.assert_close(one.to(other), other, rtol=tolerance, atol=tolerance * scale)


def grad_of(setting: Setting, operands: Operands, generator: torch.Generator) -> Tensor:
    with torch.no_grad():
        shape = setting.theirs(*operands).shape  # type: ignore[arg-type]
    return torch.randn(shape, generator=generator, dtype=torch.float64)
