"""What a ResNet's stages are made of: basic blocks, bottlenecks, and bottlenecks with a deformable convolution."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

from detcore.models.norm import ConvNorm
from detcore.ops import deform_conv2d
from detcore.ops.conv_act import added


class DeformConvNorm(ConvNorm):
    """A convolution whose taps are moved by offsets that another one computes from the same input.

    Deformable ConvNets v1 (arXiv:1703.06211, section 2.1), and v2 where `modulated` (arXiv:1811.11168, section 3.2): a
    factor in (0, 1) for each tap besides. Offsets start at 0, factors at 1/2.

    Args:
        offset_groups: groups of input channels that have offsets of their own.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        dilation: int,
        groups: int,
        norm: str,
        relu: bool,
        offset_groups: int,
        modulated: bool,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
            norm=norm,
            relu=relu,
        )
        self.modulated = modulated
        self.num_offsets = 2 * offset_groups * kernel_size**2
        self.offset = nn.Conv2d(
            in_channels,
            self.num_offsets * 3 // 2 if modulated else self.num_offsets,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
        )
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        offset: Tensor = self.offset(input)
        mask = None
        if self.modulated:
            offset, mask = offset[:, : self.num_offsets], offset[:, self.num_offsets :].sigmoid()
        stride, dilation, padding = self.stride[0], self.dilation[0], self.dilation[0] * (self.kernel_size[0] // 2)
        return deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)

    def convolved(self, x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None) -> Tensor:
        return added(self._conv_forward(x, weight, bias), residual, relu=self.relu)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: ResNet-18's and ResNet-34's."""

    def __init__(self, *, in_channels: int, out_channels: int, stride: int, norm: str) -> None:
        super().__init__()
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = ConvNorm(
            in_channels=in_channels, out_channels=out_channels, kernel_size=3, stride=stride, norm=norm, relu=True
        )
        self.conv2 = ConvNorm(in_channels=out_channels, out_channels=out_channels, kernel_size=3, norm=norm, relu=True)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out: Tensor = self.conv2(self.conv1(x), shortcut)
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; more than one group makes it ResNeXt's (arXiv:1611.05431).

    Args:
        stride_in_1x1: the stride is the first 1x1 convolution's, not the 3x3's.
        dilation: of the 3x3 convolution.
        deform_groups: offset groups of a deformable 3x3 convolution; 0 is a plain one.
        deform_modulated: see `DeformConvNorm`.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        inner_channels: int,
        stride: int,
        stride_in_1x1: bool,
        groups: int,
        norm: str,
        dilation: int = 1,
        deform_groups: int = 0,
        deform_modulated: bool = False,
    ) -> None:
        super().__init__()
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.shortcut = _shortcut(in_channels, out_channels, stride, norm)
        self.conv1 = ConvNorm(
            in_channels=in_channels, out_channels=inner_channels, kernel_size=1, stride=stride1, norm=norm, relu=True
        )
        conv2: Callable[..., ConvNorm] = ConvNorm
        if deform_groups:
            conv2 = partial(DeformConvNorm, offset_groups=deform_groups, modulated=deform_modulated)
        self.conv2 = conv2(
            in_channels=inner_channels,
            out_channels=inner_channels,
            kernel_size=3,
            stride=stride2,
            dilation=dilation,
            groups=groups,
            norm=norm,
            relu=True,
        )
        self.conv3 = ConvNorm(
            in_channels=inner_channels, out_channels=out_channels, kernel_size=1, norm=norm, relu=True
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        out: Tensor = self.conv3(self.conv2(self.conv1(x)), shortcut)
        return out


def stage(
    block: Callable[..., nn.Module], *, num_blocks: int, in_channels: int, out_channels: int, stride: int
) -> nn.Sequential:
    """Blocks one after another, the first of which changes the width and has the stride."""
    first = block(in_channels=in_channels, out_channels=out_channels, stride=stride)
    rest = (block(in_channels=out_channels, out_channels=out_channels, stride=1) for _ in range(num_blocks - 1))
    return nn.Sequential(first, *rest)


def _shortcut(in_channels: int, out_channels: int, stride: int, norm: str) -> ConvNorm | None:
    """None where input and output have one shape."""
    if in_channels == out_channels and stride == 1:
        return None
    return ConvNorm(in_channels=in_channels, out_channels=out_channels, kernel_size=1, stride=stride, norm=norm)
